"""`stcq` commands and servers as real processes, and what their tests have in common."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from stcq.server.tables import open_database
from stcq.server.tokens import Tokens

CLI = [sys.executable, "-c", "from stcq.cli import run; run()"]


def stcq(*arguments: object, cwd: Path, check: bool = True, timeout: float = 400) -> subprocess.CompletedProcess[str]:
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


def wait_for(fact: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait until something is so; what it was at last. Long: shared machines stand still for a minute at times."""
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
        environment = os.environ | {"PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen([*command, *self.options], stdout=self.log, stderr=self.log, env=environment)
        try:
            wait_for(self.answers)
        except AssertionError as error:
            self.process.send_signal(signal.SIGABRT)  # says into its log where it stands
            self.process.wait()
            self.kill()
            raise AssertionError(f"{error}: {(self.folder / 'server.log').read_text()}") from None

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
        with urllib.request.urlopen(request, timeout=120) as answer:
            content = answer.read()
        return json.loads(content) if answer.headers["content-type"] == "application/json" else content

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


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


def write_config(folder: Path, source: object, url: str, token: str = "", more: str = "", stop: float = 300) -> Path:
    """A camera's configuration for device door-1; at its end it goes on sending for up to `stop` seconds."""
    path = folder / "camera.toml"
    (folder / "token").write_text(token)
    upload = f'url = "{url}"\ntoken = "token"\ninterval = 0.1\nmax_delay = 0.5\nstop_seconds = {stop}\ntimeout = 5.0\n'
    path.write_text(f'device = "door-1"\n[source]\nurl = "{source}"\n[upload]\n{upload if url else ""}\n{more}\n')
    return path


def database_rows(server: Server) -> list[tuple[Any, ...]]:
    """(device, epoch, sequence) of every stored face in a server's SQLite file."""
    with sqlite3.connect(server.database.removeprefix("sqlite:///")) as db:
        return db.execute("select device, epoch, sequence from faces order by id").fetchall()


def framed_face(face: np.ndarray) -> np.ndarray:
    """The embedded face in BGR with something around it, as cascades want it."""
    return cv2.copyMakeBorder(face[:, :, ::-1], 40, 20, 40, 40, cv2.BORDER_REPLICATE)


def pictures_of(server: Any) -> list[np.ndarray]:
    faces = server.get("/api/faces?limit=1000")
    contents = [server.get(f"/api/faces/{face['id']}/picture.png") for face in reversed(faces)]
    return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]


def status_text(folder: Path) -> str:
    path = folder / "stcq-status.json"
    return path.read_text() if path.exists() else "{}"
