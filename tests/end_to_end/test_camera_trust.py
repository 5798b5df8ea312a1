"""Whom camera and server believe: client certificates, tokens of other devices, endless bodies."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from certificates import certificates
from end_to_end import (
    database_rows,
    stcq,
    write_config,
)


def test_client_certificates_over_tls(tmp_path: Path, serve: Callable[..., Any], two_pictures: Path) -> None:
    certificates(tmp_path)
    server = serve(
        "--certificate", tmp_path / "server.pem", "--key", tmp_path / "server.key", "--client-ca", tmp_path / "ca.pem"
    )
    url = server.url.replace("http:", "https:")
    config = write_config(tmp_path, two_pictures, url)
    text = config.read_text().replace('token = "token"', 'ca = "ca.pem"')
    certificate = 'certificate = "door-1.pem"\ncertificate_key = "door-1.key"\n'
    config.write_text(text.replace("[upload]\n", "[upload]\n" + certificate))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert status["spool"]["delivered"] == 2
    config.write_text(text.replace("stop_seconds = 30.0", "stop_seconds = 1.0"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert (status["spool"]["delivered"], status["spool"]["waiting"]) == (2, 2)  # without a certificate: kept
    assert status["upload"]["last_error"]


def test_mqtt_refuses_other_devices(tmp_path: Path, serve: Callable[..., Any], broker: str, two_pictures: Path) -> None:
    server = serve("--mqtt", broker)
    config = write_config(tmp_path, two_pictures, broker, server.token("door-2"))
    config.write_text(config.read_text().replace("stop_seconds = 30.0", "stop_seconds = 2.0"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert "403" in status["upload"]["last_error"]
    assert status["spool"]["waiting"] == 2
    assert database_rows(server) == []


def test_endless_bodies_are_cut_off(serve: Callable[..., Any]) -> None:
    server = serve()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        head = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {server.token('door-1')}\r\n"
        client.sendall((head + "Transfer-Encoding: chunked\r\n\r\n").encode())
        sent = 0
        try:
            while sent < 100_000_000:
                client.sendall(b"10000\r\n" + bytes(65536) + b"\r\n")
                sent += 65536
        except OSError:
            pass
        assert sent < 20_000_000
