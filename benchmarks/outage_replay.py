"""A day without a network: 86,400 faces in the spool, one for each second, then the server comes back.

usage: python benchmarks/outage_replay.py [--faces 86400] [--interval 1.0]      prints JSON

Real spool, uploader and HTTP against a real `stcq serve` in its own process.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from kill_loop import CLI, free_port, stored
from stcq.runtime.bundle import EMBEDDED, Bundle
from stcq.runtime.camera.config import read_config
from stcq.runtime.camera.loop import open_spool
from stcq.runtime.camera.transport import open_transport
from stcq.runtime.camera.upload import Uploader
from stcq.runtime.record import Record
from stcq.server.tables import open_database
from stcq.server.tokens import Tokens


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faces", type=int, default=86_400)
    parser.add_argument("--interval", type=float, default=1.0, help="seconds between faces")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        database, port = f"sqlite:///{folder}/faces.db", free_port()
        engine = open_database(database)
        (folder / "token").write_text(Tokens(engine).add("door-1"))
        engine.dispose()
        (folder / "camera.toml").write_text(
            f'device = "door-1"\n[upload]\nurl = "http://127.0.0.1:{port}"\ntoken = "token"\nmax_delay = 2.0\n'
        )
        config = read_config(folder / "camera.toml")
        digest = Bundle(EMBEDDED).manifest.codec.digest
        spool = open_spool(config)
        began = time.monotonic()
        for start in range(0, options.faces, 64):
            numbers = range(start, min(options.faces, start + 64))
            times = [1_790_000_000_000 + round(n * options.interval * 1000) for n in numbers]
            faces = [
                (digest, n.to_bytes(8, "big") + os.urandom(56) + b"\0", Record(t))
                for n, t in zip(numbers, times, strict=True)
            ]
            assert spool.append(faces) == len(faces)
        filled = time.monotonic() - began
        size = sum(path.stat().st_size for path in folder.glob("stcq-spool.db*"))
        uploader = Uploader(spool, open_transport(config), config.device, config.upload)
        uploader.start()
        time.sleep(0.5)
        log = (folder / "server.log").open("wb")
        command = [*CLI, "serve", "--port", str(port), "--database", database, "--no-link", "--threads", "1"]
        server = subprocess.Popen(command, stdout=log, stderr=log)
        atexit.register(server.kill)
        while not uploader.status["batches"]:
            time.sleep(0.01)
        began, left = time.monotonic(), len(spool)
        while len(spool):
            time.sleep(0.02)
        seconds = time.monotonic() - began
        uploader.stop(5)
        spool.close()
        server.terminate()
        server.wait(20)
        counts, order = stored(database)
    print(
        json.dumps(
            {
                "faces": options.faces,
                "spool_bytes": size,
                "commits_per_face": round(spool.commits / options.faces, 4),
                "fill_seconds": round(filled, 1),
                "replay_seconds": round(seconds, 1),
                "faces_per_second": round(left / seconds),
                "times_real_time": round(left * options.interval / seconds),
                "bytes_sent_per_face": round(uploader.status["bytes"] / options.faces, 1),
                "lost": options.faces - len(counts),
                "twice": sum(count - 1 for count in counts.values()),
                "out_of_order": sum(a > b for a, b in itertools.pairwise(order)),
            }
        )
    )


if __name__ == "__main__":
    main()
