"""Whom camera and server believe: client certificates, tokens of other devices, endless bodies."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certificates import certificates
from end_to_end import (
    database_rows,
    stcq,
    wait_for,
    write_config,
)
from stcq.runtime.batch import Batch, pack_batch
from stcq.runtime.camera.config import read_config
from stcq.runtime.camera.transport import Unreachable, open_transport
from stcq.runtime.codec import Codec
from stcq.runtime.record import Face


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
    config.write_text(text.replace("stop_seconds = 300", "stop_seconds = 1"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert (status["spool"]["delivered"], status["spool"]["waiting"]) == (2, 2)  # without a certificate: kept
    assert status["upload"]["last_error"]


def test_mqtt_refuses_other_devices(tmp_path: Path, serve: Callable[..., Any], broker: str, two_pictures: Path) -> None:
    server = serve("--mqtt", broker)
    config = write_config(tmp_path, two_pictures, broker, server.token("door-2"), stop=2)
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert "403" in status["upload"]["last_error"]
    assert status["spool"]["waiting"] == 2
    assert database_rows(server) == []


def test_a_broker_that_takes_small_packets_only(
    tmp_path: Path, serve: Callable[..., Any], small_broker: str, codec: Codec
) -> None:
    server = serve("--mqtt", small_broker)
    config = read_config(write_config(tmp_path, "none", small_broker, server.token("door-1")))
    layout = codec.bundle.manifest.codec.packets
    faces = [Face(layout.pack_payload(np.array([n % 256]), np.full((1, 64), n % 256))[0].tobytes()) for n in range(400)]
    transport = open_transport(config)

    def send(first: int, count: int) -> int:
        batch = Batch("door-1", 7, first, layout.digest, faces[first : first + count])
        return transport.send(pack_batch(batch), f"{first}").status

    def delivered(first: int, count: int) -> bool:
        try:
            return send(first, count) == 200
        except Unreachable:  # the server is not at the broker yet
            return False

    wait_for(lambda: delivered(0, 1))  # by now the broker has said what it takes
    assert send(1, 300) == 413
    assert send(1, 100) == 200
    server.kill()
    with pytest.raises(Unreachable):
        send(101, 100)
    assert not transport._client._out_messages  # nothing is sent again behind the spool's back
    server.start()
    wait_for(lambda: delivered(101, 100))
    transport.close()
    assert len(database_rows(server)) == 201


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
