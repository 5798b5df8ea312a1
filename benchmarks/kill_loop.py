"""Kill camera and server at random under load, and see whether a face is lost or stored twice.

usage: python benchmarks/kill_loop.py [--kills 200] [--database URL] [--seed 0]      prints JSON

The server is a real `stcq serve`. The camera is a process with the real spool, uploader and HTTP transport; it makes
numbered faces instead of seeing them, 20 in each commit, and says which ones were accepted. Both die by SIGKILL,
also while they start, commit, send or acknowledge. At the end what the server has is compared with what was accepted.
"""

from __future__ import annotations

import argparse
import atexit
import collections
import itertools
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stcq.runtime.bundle import EMBEDDED, Bundle
from stcq.server.store import Selection, Store
from stcq.server.tables import open_database
from stcq.server.tokens import Tokens

CLI = [sys.executable, "-c", "from stcq.cli import run; run()"]
CAMERA = """
import sys, time
from pathlib import Path
from stcq.runtime.record import Record
from stcq.runtime.camera.config import read_config
from stcq.runtime.camera.loop import open_spool
from stcq.runtime.camera.transport import open_transport
from stcq.runtime.camera.upload import Uploader
config = read_config(Path(sys.argv[1]))
number, last, digest = int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
spool = open_spool(config)
uploader = Uploader(spool, open_transport(config), config.device, config.upload)
uploader.start()
while number < last:
    faces = [(digest, (number + i).to_bytes(8, "big") + bytes(57), Record(1000 + number + i)) for i in range(20)]
    count = spool.append(faces)
    number += count
    print(number, flush=True)
    uploader.wake()
    time.sleep(0.02)
while len(spool):
    time.sleep(0.05)
uploader.stop(10)
spool.close()
"""


class Fleet:
    """One server and one camera that can be killed and started again."""

    def __init__(self, folder: Path, database: str, port: int) -> None:
        self.folder, self.database, self.port = folder, database, port
        engine = open_database(database)
        (folder / "token").write_text(Tokens(engine).add("door-1"))
        engine.dispose()
        bundle = Bundle(EMBEDDED)
        self.digest = bundle.manifest.codec.digest.hex()
        (folder / "camera.toml").write_text(
            f'device = "door-1"\n[upload]\nurl = "http://127.0.0.1:{port}"\ntoken = "token"\ninterval = 0.02\n'
            f"max_delay = 0.3\nbatch_faces = 64\ntimeout = 5.0\n"
        )
        self.server: subprocess.Popen | None = None
        self.camera: subprocess.Popen | None = None
        self.accepted: list[range] = []
        self.number = 0
        self._line = b""

    def start_server(self) -> None:
        command = [*CLI, "serve", "--port", str(self.port), "--database", self.database, "--no-link", "--threads", "1"]
        log = (self.folder / "server.log").open("ab")
        self.server = subprocess.Popen(command, stderr=log, stdout=log)

    def start_camera(self, last: int = 1 << 60) -> None:
        # Numbers that the last one may have accepted without saying so are not used again.
        self.number += 1000
        arguments = [self.folder / "camera.toml", str(self.number), str(last), self.digest]
        log = (self.folder / "camera.log").open("ab")
        self.camera = subprocess.Popen([sys.executable, "-c", CAMERA, *arguments], stdout=subprocess.PIPE, stderr=log)
        self._line = b""

    def listen(self, seconds: float) -> None:
        """Note what the camera says it has accepted."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.camera is None:
                time.sleep(left)
                return
            if select.select([self.camera.stdout], [], [], left)[0] and not self.read():
                time.sleep(max(0.0, min(0.05, end - time.monotonic())))

    def read(self) -> bool:
        assert self.camera is not None
        content = os.read(self.camera.stdout.fileno(), 65536)
        *lines, self._line = (self._line + content).split(b"\n")
        for line in lines:
            self.accepted.append(range(self.number, int(line)))
            self.number = int(line)
        return bool(content)

    def stop(self) -> None:
        for process in (self.server, self.camera):
            if process is not None and process.poll() is None:
                process.kill()

    def kill(self, name: str) -> None:
        process: subprocess.Popen = getattr(self, name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if name == "camera":
            while self.read():
                pass
            process.stdout.close()
            self.camera = None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stored(database: str) -> tuple[collections.Counter[int], list[int]]:
    """How often each number is in the database, and the numbers in the order they came."""
    engine = open_database(database)
    rows = Store(engine).faces(Selection(), 10**8)
    engine.dispose()
    numbers = [int.from_bytes(bytes(row.payload)[:8], "big") for row in reversed(rows)]
    return collections.Counter(numbers), numbers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--database")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        database = options.database or f"sqlite:///{folder}/faces.db"
        fleet = Fleet(folder, database, free_port())
        atexit.register(fleet.stop)
        fleet.start_server()
        fleet.start_camera()
        killed: collections.Counter[str] = collections.Counter()
        for _ in range(options.kills):
            # Mostly after a while of work, sometimes at once; the server needs some seconds to start.
            fleet.listen(rng.choice([0.1, 0.5, 1.5, 4.0]) * rng.random())
            name = rng.choice(["server", "camera"])
            fleet.kill(name)
            killed[name] += 1
            fleet.listen(0.2 * rng.random())
            fleet.start_server() if name == "server" else fleet.start_camera()
        fleet.kill("camera")
        fleet.start_camera(last=0)  # sends what is left, then ends
        assert fleet.camera is not None
        assert fleet.camera.wait(120) == 0, (folder / "camera.log").read_text()
        fleet.kill("server")
        counts, order = stored(database)
    accepted = {number for numbers in fleet.accepted for number in numbers}
    result = {
        "kills": options.kills,
        "of_server": killed["server"],
        "of_camera": killed["camera"],
        "accepted": len(accepted),
        "stored": len(counts),
        "lost": len(accepted - set(counts)),
        "twice": sum(count - 1 for count in counts.values()),
        "out_of_order": sum(a > b for a, b in itertools.pairwise(order)),
        "seconds": round(time.monotonic() - began),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
