"""Write batches.json. Run it only together with a new batch format version: batches in the field never change.

usage: python tests/vectors/make_batches.py
"""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
from stcq.errors import PacketError
from stcq.runtime.batch import HEADER, Batch, pack_batch, unpack_batch
from stcq.runtime.packet import PacketFormat
from stcq.runtime.record import Face, Record

MODELS = [(64, 256, 4), (16, 1024, 16), (7, 5, 3), (1, 1, 1)]


def reseal(content: bytes) -> bytes:
    """The batch with a final checksum that fits, so that only a deeper rule can refuse it."""
    return content[:-4] + zlib.crc32(content[:-4]).to_bytes(4, "little")


def refusals(packed: bytes) -> list[bytes]:
    """Batches that must be refused, made from a good one."""
    bad = [b"", packed[:3], packed[:40], packed[:-1], packed + b"\0", packed[: len(packed) * 2 // 3], packed * 2]
    for place in (0, 4, 5, 37, 61, 63, 64, len(packed) // 2, len(packed) - 1):
        flipped = bytearray(packed)
        flipped[place] ^= 0x41
        bad += [bytes(flipped), reseal(bytes(flipped))] if place < len(packed) - 4 else [bytes(flipped)]
    for place, value in ((61, b"\0\0"), (37, b"\xff" * 8), (45, b"\xff" * 8), (4, b"\x20"), (4, b"\x12")):
        bad.append(reseal(packed[:place] + value + packed[place + len(value) :]))
    name_end = HEADER.size + packed[HEADER.size - 1]
    bad.append(reseal(packed[: HEADER.size] + b"/" * (name_end - HEADER.size) + packed[name_end:]))
    return bad


def main() -> None:
    rng = np.random.default_rng(2)
    models = []
    for tokens, codes, groups in MODELS:
        digest = hashlib.sha256(f"{tokens},{codes},{groups}".encode()).digest()
        layout = PacketFormat(tokens, codes, groups, digest)
        accepted, refused = [], []
        for count in (1, 2, 5):
            group, indices = rng.integers(0, groups, count), rng.integers(0, codes, (count, tokens))
            base = 1_790_000_000_000 + int(rng.integers(1 << 40))
            records = [
                Record(base + 40 * i - 7, 65535 - i, (0, 255, i, 128), 255, i) if i % 2 == 0 else None
                for i in range(count)
            ]
            payloads = layout.pack_payload(group, indices)
            faces = [Face(p.tobytes(), r) for p, r in zip(payloads, records, strict=True)]
            batch = Batch(f"cam-{count}", int(rng.integers(1 << 62)), int(rng.integers(1 << 62)), digest, faces, base)
            packed = pack_batch(batch)
            fields = {"device": batch.device, "epoch": batch.epoch, "first": batch.first, "time": base}
            listed = [[face.payload.hex(), face.record] for face in faces]
            accepted.append(fields | {"faces": listed, "batch": packed.hex()})
            for bad in refusals(packed):
                try:
                    unpack_batch(bad, {digest: layout})
                except PacketError as error:
                    refused.append({"error": type(error).__name__, "batch": bad.hex()})
                else:
                    raise SystemExit(f"accepted {bad.hex()}")
        models.append(
            {"T": tokens, "K": codes, "M": groups, "digest": digest.hex(), "accepted": accepted, "refused": refused}
        )
    text = json.dumps({"batch_version": 1, "models": models}, separators=(",", ":"))
    (Path(__file__).parent / "batches.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
