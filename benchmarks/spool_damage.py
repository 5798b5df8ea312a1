"""Damage every page of a spool in turn, each in four ways, and see what is delivered afterwards.

usage: python benchmarks/spool_damage.py [--faces 2000] [--every 1]

The image is what kill -9 leaves: a database and a write-ahead log with faces that wait and faces that were delivered.
A face counts as undamaged while one whole copy of its bytes is left in either file. Prints JSON.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from stcq.errors import StcqError
from stcq.runtime.camera.entry import MAGIC, place_of, scan
from stcq.runtime.camera.spool import Spool
from stcq.runtime.record import Record

DIGEST = bytes(range(32))
PAGE = 4096
FILES = ("spool.db", "spool.db-wal")
KINDS = ("zeros", "noise", "one bit", "cut off")


def make_image(folder: Path, faces: int) -> set[int]:
    """Two files as a killed camera leaves them; returns the ids that wait."""
    spool = Spool(folder / "spool.db")
    for start in range(0, faces, 20):
        spool.append([(DIGEST, os.urandom(65), Record(start + i)) for i in range(20)])
        if start % 100 == 80 and start < faces / 2:
            spool.remove(spool.peek(50)[-1].id)
    waiting = {stored.id for stored in spool.peek(faces)}
    image = folder / "image"
    image.mkdir()
    for name in FILES:
        shutil.copy(folder / name, image / name)
    spool.close()
    return waiting


def copies(image: Path) -> dict[int, list[tuple[str, int, int]]]:
    """Where each face's bytes are: (file, start, end)."""
    found = collections.defaultdict(list)
    for name in FILES:
        content = (image / name).read_bytes()
        for entry in set(scan(image / name)):
            assert entry.startswith(MAGIC)
            place = content.find(entry)
            while place >= 0:
                found[place_of(entry)[0]].append((name, place, place + len(entry)))
                place = content.find(entry, place + 1)
    return found


def damage(path: Path, page: int, kind: str, rng: random.Random) -> tuple[int, int]:
    """Damage one page; returns the bytes that are not what they were."""
    size = path.stat().st_size
    start, end = page * PAGE, min(size, (page + 1) * PAGE)
    with path.open("r+b") as file:
        file.seek(start)
        if kind == "cut off":
            file.truncate(start)
            return start, size
        if kind == "one bit":
            place = rng.randrange(start, end)
            file.seek(place)
            [old] = file.read(1)
            file.seek(place)
            file.write(bytes([old ^ 1 << rng.randrange(8)]))
            return place, place + 1
        file.write(bytes(end - start) if kind == "zeros" else rng.randbytes(end - start))
    return start, end


def drain(path: Path) -> list[tuple[int, int, int]]:
    """Start the spool, accept one more face, deliver everything."""
    spool = Spool(path)
    spool.append([(DIGEST, bytes(65), Record(0))])
    delivered = []
    while faces := spool.peek(64):
        delivered += [(face.id, face.epoch, face.sequence) for face in faces]
        spool.remove(faces[-1].id)
    spool.close()
    return delivered


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faces", type=int, default=2000)
    parser.add_argument("--every", type=int, default=1, help="only every n-th page")
    options = parser.parse_args()
    rng = random.Random(0)
    figures = collections.Counter()
    slowest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        waiting = make_image(folder, options.faces)
        image = folder / "image"
        where = copies(image)
        pages = [(name, page) for name in FILES for page in range(-(-(image / name).stat().st_size // PAGE))]
        for name, page in pages[:: options.every]:
            for kind in KINDS:
                work = folder / "work"
                shutil.copytree(image, work)
                start, end = damage(work / name, page, kind, rng)
                whole = {
                    number
                    for number in waiting
                    if any(file != name or last <= start or first >= end for file, first, last in where[number])
                }
                began = time.perf_counter()
                figures["cases"] += 1
                try:
                    delivered = drain(work / "spool.db")
                except StcqError as error:
                    figures["failed_starts"] += 1
                    print(name, page, kind, error)
                else:
                    slowest = max(slowest, time.perf_counter() - began)
                    ids, names = [d[0] for d in delivered], [d[1:] for d in delivered]
                    figures["undamaged_faces_lost"] += len(whole - set(ids))
                    figures["damaged_faces_lost"] += len(waiting - set(ids))
                    figures["faces_twice"] += len(ids) - len(set(ids)) + len(names) - len(set(names))
                    figures["sent_again_after_delivery"] += len(set(ids) - waiting) - 1
                    figures["out_of_order"] += ids != sorted(ids)
                shutil.rmtree(work)
    names = ("failed_starts", "undamaged_faces_lost", "damaged_faces_lost", "faces_twice", "out_of_order")
    result = {"pages": len(pages), "cases": figures["cases"], "waiting": len(waiting), "slowest_s": round(slowest, 2)}
    result |= {name: figures[name] for name in (*names, "sent_again_after_delivery")}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
