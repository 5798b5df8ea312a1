"""A camera whose server is killed, whose source hangs or lies, or which is stopped, with real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from end_to_end import (
    CLI,
    database_rows,
    framed_face,
    free_port,
    status_text,
    stcq,
    wait_for,
    write_config,
)
from mjpeg_server import MjpegServer


def test_killed_between_commit_and_acknowledgement(
    tmp_path: Path, serve: Callable[..., Any], short_video: Path, processes: Callable[..., Any]
) -> None:
    """A proxy swallows the first answer and kills the server: the batch is stored, the camera does not know."""
    server = serve()
    listener = socket.create_server(("127.0.0.1", 0))
    swallowed: list[bytes] = []

    def proxy() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(("127.0.0.1", server.port))
            except OSError:  # killed
                client.close()
                continue
            threading.Thread(target=forward, args=(client, upstream, False), daemon=True).start()
            threading.Thread(target=forward, args=(upstream, client, True), daemon=True).start()

    def forward(source: socket.socket, target: socket.socket, answers: bool) -> None:
        with source, target:
            try:
                while content := source.recv(65536):
                    if answers and not swallowed:
                        swallowed.append(content)
                        server.kill()
                        server.start()
                        return
                    target.sendall(content)
            except OSError:
                pass

    threading.Thread(target=proxy, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    config = write_config(tmp_path, short_video, url, server.token("door-1"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    listener.close()
    assert swallowed[0].startswith(b"HTTP/1.1 200")
    assert status["spool"]["delivered"] == 2
    rows = database_rows(server)
    assert [row[2] for row in rows] == [0, 1]  # stored once each


def test_sigterm_commits_what_was_seen(
    request: pytest.FixtureRequest, tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    framed = framed_face(face)
    stream = MjpegServer(framed)
    config = write_config(tmp_path, stream.url, "", more="[track]\nsettle = 100.0\n")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    request.addfinalizer(notify.close)
    notify.bind(str(tmp_path / "notify"))
    notify.settimeout(30)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "2000000"}
    port = free_port()
    command = [*CLI, "camera", config, "--preview", port]
    camera = processes(*command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert notify.recv(100) == b"READY=1"
    assert notify.recv(100) == b"WATCHDOG=1"
    wait_for(lambda: json.loads(status_text(tmp_path)).get("detections", 0) > 5)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=300) as preview:
        assert b"\xff\xd8\xff" in preview.read(2000)  # a JPEG
    running = stcq("camera", config, "--status", "--json", cwd=tmp_path)
    assert json.loads(running.stdout)["alive"]
    camera.send_signal(signal.SIGTERM)
    out, error = camera.communicate(timeout=300)
    assert camera.returncode == 0, error
    stream.close()
    assert "accepted: 1" in out  # the track had not settled
    stopped = stcq("camera", config, "--status", cwd=tmp_path, check=False)
    assert (stopped.returncode, "alive: False" in stopped.stdout) == (1, True)


def children_of(process: subprocess.Popen[str]) -> list[str]:
    return subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True).stdout.split()


def test_a_camera_that_hangs_or_lies_is_opened_anew(
    tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    stream = MjpegServer(framed_face(face))
    config = write_config(tmp_path, stream.url, "", more="[track]\nsettle = 0.3\n")
    camera = processes(*CLI, "camera", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def status(name: str) -> Any:
        return json.loads(status_text(tmp_path)).get(name, 0)

    wait_for(lambda: status("frames") > 10)
    for failure in ("hanging", "repeating", "stopped"):
        before, restarts = stream.connections, status("capture_restarts")
        if failure == "stopped":
            os.kill(int(children_of(camera)[0]), signal.SIGSTOP)
        else:
            stream.mode = failure
        began = time.monotonic()
        wait_for(lambda before=before: stream.connections > before)  # opened anew
        print(f"{failure}: opened anew after {time.monotonic() - began:.1f} s")
        stream.mode, frames = "moving", status("frames")
        wait_for(lambda frames=frames: status("frames") > frames + 5)
        assert status("capture_restarts") > restarts
    camera.send_signal(signal.SIGTERM)
    assert camera.wait(30) == 0
    stream.close()


def test_a_stream_that_comes_later_and_whose_password_nobody_sees(
    tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    port = free_port()
    url = f"http://door:SECRET@127.0.0.1:{port}/"
    config = write_config(tmp_path, url, "")
    camera = processes(*CLI, "camera", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: "does not open" in str(json.loads(status_text(tmp_path)).get("problem", "")))
    assert "SECRET" not in status_text(tmp_path)
    stream = MjpegServer(framed_face(face), port)
    wait_for(lambda: json.loads(status_text(tmp_path)).get("frames", 0) > 3)
    arguments = [Path(f"/proc/{child}/cmdline").read_bytes() for child in children_of(camera)]
    assert arguments
    assert not any(b"SECRET" in line for line in arguments)
    camera.send_signal(signal.SIGTERM)
    _, error = camera.communicate(timeout=300)
    assert camera.returncode == 0
    assert "SECRET" not in error
    stream.close()


def test_a_camera_dies_with_its_capture_process(
    tmp_path: Path, face: np.ndarray, processes: Callable[..., Any]
) -> None:
    stream = MjpegServer(face[:, :, ::-1])
    config = write_config(tmp_path, stream.url, "")
    camera = processes(*CLI, "camera", config, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: json.loads(status_text(tmp_path)).get("frames", 0) > 0)
    child = children_of(camera)[0]
    camera.kill()
    camera.wait()
    wait_for(lambda: subprocess.run(["kill", "-0", child], capture_output=True).returncode != 0, 10)
    stream.close()
