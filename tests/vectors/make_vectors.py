"""Write packets.json. Run it only together with a new packet format version: packets in the field never change.

usage: python tests/vectors/make_vectors.py
"""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
from stcq.errors import PacketError
from stcq.runtime.packet import PacketFormat

MODELS = [
    (64, 256, 4),
    (64, 16, 256),
    (128, 256, 1),
    (32, 4096, 1),
    (16, 1024, 16),
    (7, 5, 3),
    (1, 1, 1),
    (3, 1, 5),
    (9, 3, 7),
]


def reseal(packet: bytes, digest: bytes) -> bytes:
    """The packet with a checksum that fits, so that only the deeper rule can refuse it."""
    return packet[:-4] + zlib.crc32(digest + packet[:-4]).to_bytes(4, "little")


def refusals(layout: PacketFormat, packet: bytes) -> list[bytes]:
    """Packets that must be refused, made from a good one."""
    body = bytearray(packet)
    bad = [packet[:-1], packet + b"\0", packet[: len(packet) // 2], b"", packet * 2]
    for place in (0, 1, 4, 5, len(packet) - 5, len(packet) - 1):
        flipped = bytearray(body)
        flipped[place] ^= 0x41
        bad.append(bytes(flipped))
    bad.append(reseal(bytes([0x20]) + packet[1:], layout.digest))
    bad.append(reseal(bytes([0x11]) + packet[1:], layout.digest))
    if layout.payload_bits % 8:  # padding
        body[-5] |= 1
        bad.append(reseal(bytes(body), layout.digest))
    if layout.codes & (layout.codes - 1) or layout.groups & (layout.groups - 1):  # index >= K or group >= M
        bad.append(reseal(packet[:5] + b"\xff" * layout.payload_bytes + packet[-4:], layout.digest))
    return bad


def main() -> None:
    rng = np.random.default_rng(1)
    models = []
    for tokens, codes, groups in MODELS:
        digest = hashlib.sha256(f"{tokens},{codes},{groups}".encode()).digest()
        layout = PacketFormat(tokens, codes, groups, digest)
        group, indices = rng.integers(0, groups, 30), rng.integers(0, codes, (30, tokens))
        group[:2], indices[:2] = (0, groups - 1), ([0] * tokens, [codes - 1] * tokens)
        packets = layout.pack(group, indices)
        accepted = [
            {"group": int(g), "indices": row.tolist(), "packet": p.hex()}
            for g, row, p in zip(group, indices, packets, strict=True)
        ]
        refused = []
        for bad in refusals(layout, packets[5]):
            try:
                layout.unpack([bad])
            except PacketError as error:
                refused.append({"error": type(error).__name__, "packet": bad.hex()})
            else:
                raise SystemExit(f"accepted {bad.hex()}")
        models.append(
            {"T": tokens, "K": codes, "M": groups, "digest": digest.hex(), "accepted": accepted, "refused": refused}
        )
    text = json.dumps({"packet_version": 1, "models": models}, separators=(",", ":"))
    (Path(__file__).parent / "packets.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
