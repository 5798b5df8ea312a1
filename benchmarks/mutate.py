"""Mutate packets and batches: only typed errors, and neither time nor memory, whatever comes in.

usage: python benchmarks/mutate.py [--cases 1000000] [--seed 0]      prints JSON

Half of the cases have their checksums made right again, so that the deeper rules are reached. Time is the thread's CPU
time of one case, memory the peak of what one case allocates (tracemalloc, every 50th case).
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import time
import tracemalloc
import zlib

import numpy as np
from stcq.errors import PacketError
from stcq.runtime.batch import HEADER, MAX_BATCH, Batch, pack_batch, unpack_batch
from stcq.runtime.bundle import EMBEDDED, Bundle
from stcq.runtime.packet import PacketFormat, from_file
from stcq.runtime.record import Face, Record

KEY = bytes(range(32))


def originals(layout: PacketFormat) -> tuple[list[bytes], list[bytes]]:
    """Good packets and good batches (plain, sealed, with and without records)."""
    rng = np.random.default_rng(0)
    group, indices = rng.integers(0, layout.groups, 8), rng.integers(0, layout.codes, (8, layout.tokens))
    packets = layout.pack(group, indices)
    payloads = [payload.tobytes() for payload in layout.pack_payload(group, indices)]
    batches = []
    for count in (1, 2, 8):
        for key in (None, KEY):
            for record in (None, Record(5000, 3, (1, 2, 3, 4), 5, 6)):
                faces = [Face(payload, record) for payload in payloads[:count]]
                batches.append(pack_batch(Batch("door-1", 7, 100, layout.digest, faces, 4000), key))
    return packets, batches


def mutate(content: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One to three changes."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(data)) if data else 0
        kind = rng.randrange(9)
        if kind == 0 and data:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[place] = rng.choice([0, 1, 12, 13, 127, 128, 254, 255])
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            data += os.urandom(rng.randint(1, 64))
        elif kind == 4:
            del data[place : place + rng.randint(1, 32)]
        elif kind == 5:
            data[place:place] = os.urandom(rng.randint(1, 32))
        elif kind == 6:
            other = rng.choice(others)
            data = data[:place] + other[rng.randrange(len(other)) :]
        elif kind == 7 and len(data) > HEADER.size:  # numbers of the header
            at, width = rng.choice([(37, 8), (45, 8), (53, 8), (61, 2), (63, 1)])
            data[at : at + width] = rng.choice([bytes(width), b"\xff" * width, os.urandom(width)])
        elif kind == 8 and rng.random() < 0.01:
            data += bytes(rng.choice([4096, 65536, MAX_BATCH]))
    return bytes(data)


def seal_again(content: bytes, digest: bytes) -> bytes:
    """A checksum that fits."""
    if content.startswith(b"STCB"):
        return content[:-4] + zlib.crc32(content[:-4]).to_bytes(4, "little")
    return content[:-4] + zlib.crc32(content[:-4], zlib.crc32(digest)).to_bytes(4, "little")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    layout = Bundle(EMBEDDED).manifest.codec.packets
    packets, batches = originals(layout)
    good = set(packets) | set(batches)
    outcomes: collections.Counter[str] = collections.Counter()
    untyped: list[str] = []
    times = np.zeros(options.cases, np.float32)
    peak = 0
    for case in range(options.cases):
        pool = packets if case % 2 else batches
        content = mutate(rng.choice(pool), packets + batches, rng)
        if case % 4 < 2:
            content = seal_again(content, layout.digest)
        if case % 50 == 0:
            tracemalloc.start()
        began = time.thread_time()
        try:
            if case % 2:
                layout.unpack([from_file(content)])
            else:
                unpack_batch(content, {layout.digest: layout}, [KEY])
            outcome = "unchanged" if content in good else "accepted"
        except PacketError as error:
            outcome = type(error).__name__
        except Exception as error:
            outcome = "UNTYPED"
            untyped.append(f"{content.hex()}: {error!r}")
        times[case] = time.thread_time() - began
        if case % 50 == 0:
            peak = max(peak, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
            times[case] = 0  # tracing is slow
        outcomes[outcome] += 1
    for line in untyped[:10]:
        print(line)
    percentiles = {f"p{p}_ms": round(float(np.percentile(times, p)) * 1000, 3) for p in (50, 99.9, 100)}
    result = {"cases": options.cases, "untyped": outcomes["UNTYPED"], **percentiles, "peak_bytes": peak}
    print(json.dumps(result | {"outcomes": dict(outcomes.most_common())}))


if __name__ == "__main__":
    main()
