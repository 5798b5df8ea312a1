"""Let each write of the spool in turn find a full disk (write, truncate and sync), once or for a while.

usage: python benchmarks/disk_full.py [--writes 400] [--every 1]      needs a C compiler (cc) on Linux; prints JSON

A process with a preloaded library (full_disk.c) appends and delivers faces; afterwards a healthy process looks
whether every face that was accepted and not delivered is there, once.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stcq.runtime.camera.spool import Spool

WORK = """
import sys
from pathlib import Path
from stcq.runtime.record import Record
from stcq.runtime.camera.spool import Spool
spool = Spool(Path(sys.argv[1]), max_bytes=40_000)
number = 0
for turn in range(12):
    faces = [(bytes(32), number.to_bytes(4, "big") + bytes(61), Record(number + i)) for i in range(15)]
    faces = [(d, (number + i).to_bytes(4, "big") + p[4:], r) for i, (d, p, r) in enumerate(faces)]
    kept = spool.append(faces)
    print("accepted", *range(number, number + kept), flush=True)
    number += 15
    if turn % 3 == 2:
        taken = spool.peek(20)
        if taken:
            print("delivered", *[int.from_bytes(f.payload[:4], "big") for f in taken], flush=True)
            spool.remove(taken[-1].id)
spool.close()
"""


def numbers(lines: list[list[str]], word: str) -> list[int]:
    return [int(n) for line in lines if line[:1] == [word] for n in line[1:]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--writes", type=int, default=400)
    parser.add_argument("--every", type=int, default=1, help="only every n-th write")
    options = parser.parse_args()
    figures: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        library = folder / "full.so"
        source = Path(__file__).parent / "full_disk.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
        for place in range(1, options.writes + 1, options.every):
            count = (1, 1, 25)[place % 3]  # the disk has room again after one or after 25 operations
            path = folder / str(place) / "spool.db"
            path.parent.mkdir()
            environment = os.environ | {
                "LD_PRELOAD": str(library),
                "FAIL_NAME": "spool.db",
                "FAIL_AT": str(place),
                "FAIL_FOR": str(count),
            }
            result = subprocess.run(
                [sys.executable, "-c", WORK, path], env=environment, capture_output=True, text=True, timeout=60
            )
            figures["cases"] += 1
            figures["failures_injected"] += "FULL" in result.stderr
            figures["crashes"] += result.returncode != 0
            if result.returncode:
                print(place, result.stderr)
            lines = [line.split() for line in result.stdout.splitlines()]
            accepted, delivered = numbers(lines, "accepted"), numbers(lines, "delivered")
            spool = Spool(path)
            left = []
            while faces := spool.peek(1000):
                left += [int.from_bytes(face.payload[:4], "big") for face in faces]
                spool.remove(faces[-1].id)
            spool.close()
            figures["accepted"] += len(accepted)
            figures["accepted_faces_lost"] += len(set(accepted) - set(delivered) - set(left))
            figures["faces_twice"] += len(left) - len(set(left))
            figures["sent_again"] += len(set(delivered) & set(left))
            figures["out_of_order"] += left != sorted(left)
            if "FULL" not in result.stderr:
                break  # fewer operations than that
    keys = ("cases", "failures_injected", "crashes", "accepted", "accepted_faces_lost", "faces_twice", "out_of_order")
    print(json.dumps({key: figures[key] for key in (*keys, "sent_again")}))


if __name__ == "__main__":
    main()
