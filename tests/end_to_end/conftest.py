"""Real processes: `stcq serve`, `stcq camera`, a Mosquitto broker; all of them end with the test."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from end_to_end import Server, framed_face, free_port, wait_for, write_video
from PIL import Image


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server: serve(*options, database=...)."""
    servers: list[Server] = []

    def start(*options: object, database: str | None = None) -> Server:
        servers.append(Server(tmp_path, *options, database=database))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


@pytest.fixture
def processes() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start processes that are killed when the test ends."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: object, **options: Any) -> subprocess.Popen[str]:
        started.append(subprocess.Popen(list(map(str, command)), text=True, **options))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def broker(tmp_path: Path, processes: Callable[..., Any]) -> str:
    """The URL of a fresh Mosquitto."""
    return start_broker(tmp_path, processes)


@pytest.fixture
def small_broker(tmp_path: Path, processes: Callable[..., Any]) -> str:
    """The URL of one that takes packets of 10,000 bytes."""
    return start_broker(tmp_path, processes, "max_packet_size 10000\n")


def start_broker(tmp_path: Path, processes: Callable[..., Any], more: str = "") -> str:
    program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if program is None:
        pytest.skip("needs Mosquitto (apt install mosquitto)")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n{more}")
    processes(program, "-c", config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens)
    return f"mqtt://127.0.0.1:{port}"


@pytest.fixture
def short_video(tmp_path: Path, face: np.ndarray) -> Path:
    """The embedded face comes by twice; OpenCV's cascade finds it."""
    framed = framed_face(face)
    return write_video(tmp_path / "short.avi", [framed, framed[:, ::-1]], 230)


@pytest.fixture
def two_pictures(tmp_path: Path, face: np.ndarray) -> Path:
    """A folder; each picture is a scene of its own. A broken one is passed over."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(2):
        Image.fromarray(np.pad(face, ((40, 40), (40, 40), (0, 0)), "edge")).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder
