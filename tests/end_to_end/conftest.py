"""Real processes: `stcq serve`, `stcq camera`, a Mosquitto broker; all of them end with the test."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from stcq.server.tables import open_database
from stcq.server.tokens import Tokens

ROOT = Path(__file__).parent.parent.parent
CLI = [sys.executable, "-c", "from stcq.cli import run; run()"]


def stcq(*arguments: object, cwd: Path, check: bool = True, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    result = subprocess.run(
        [*CLI, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(fact: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until something is so; what it was at last."""
    end = time.monotonic() + seconds
    while not (found := fact()) and time.monotonic() < end:
        time.sleep(0.05)
    assert found, f"not within {seconds} s"
    return found


class Server:
    """A running `stcq serve`."""

    def __init__(self, folder: Path, *options: object, database: str | None = None) -> None:
        self.folder, self.port = folder, free_port()
        self.database = database or f"sqlite:///{folder}/faces.db"
        self.options = [str(option) for option in options]
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.viewer = self.token("me", "viewer")

    def start(self) -> None:
        self.log = (self.folder / "server.log").open("ab")
        command = [*CLI, "serve", "--port", str(self.port), "--database", self.database, "--threads", "1"]
        self.process = subprocess.Popen([*command, *self.options], stdout=self.log, stderr=self.log)
        wait_for(self.answers)

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def token(self, name: str, role: str = "device") -> str:
        engine = open_database(self.database)
        token = Tokens(engine).add(name, role)
        engine.dispose()
        return token

    def get(self, path: str, method: str = "GET") -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"Bearer {self.viewer}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers["content-type"] == "application/json" else content

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


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
    program = shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")
    if program is None:
        pytest.skip("needs Mosquitto (apt install mosquitto)")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    processes(program, "-c", config, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_for(listens)
    return f"mqtt://127.0.0.1:{port}"


def write_video(path: Path, pictures: list[np.ndarray], side: int, seconds: float = 1.4, rate: int = 10) -> Path:
    """A 640 x 480 video: each picture (BGR) moves over a background, one after the other."""
    rng = np.random.default_rng(0)
    background = cv2.resize(rng.integers(60, 160, (12, 16, 3), dtype=np.uint8), (640, 480))
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (640, 480))
    assert writer.isOpened()
    for place, picture in enumerate(pictures):
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        for step in range(round(seconds * rate)):
            frame = background.copy()
            left, top = 30 + place % 3 * 150 + 2 * step, 40 + place % 2 * 60 + step
            frame[top : top + side, left : left + side] = small[: 480 - top, : 640 - left]
            writer.write(frame)
        for _ in range(round(1.3 * rate)):  # longer than a track lives unseen
            writer.write(background)
    writer.release()
    return path


def write_config(folder: Path, source: object, url: str, token: str = "", more: str = "") -> Path:
    """A camera's configuration for device door-1."""
    path = folder / "camera.toml"
    (folder / "token").write_text(token)
    upload = f'url = "{url}"\ntoken = "token"\ninterval = 0.1\nmax_delay = 0.5\nstop_seconds = 30.0\ntimeout = 5.0\n'
    path.write_text(f'device = "door-1"\n[source]\nurl = "{source}"\n[upload]\n{upload if url else ""}\n{more}\n')
    return path


def database_rows(server: Server) -> list[tuple[Any, ...]]:
    """(device, epoch, sequence) of every stored face in a server's SQLite file."""
    with sqlite3.connect(server.database.removeprefix("sqlite:///")) as db:
        return db.execute("select device, epoch, sequence from faces order by id").fetchall()
