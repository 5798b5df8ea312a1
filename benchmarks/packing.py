"""Packing and unpacking tokens: stcq against bitarray, 256 tokens of 12 bits by default.

usage: python benchmarks/packing.py [--tokens 256 --codes 4096 --batch 256]      (needs stcq[benchmark])
"""

import click
import numpy as np
from bitarray import bitarray
from bitarray.util import ba2int, int2ba
from interleave import interleave, table
from stcq.runtime.packet import PacketFormat

GROUPS = 256


@click.command()
@click.option("--tokens", default=256, show_default=True)
@click.option("--codes", default=4096, show_default=True)
@click.option("--batch", default=256, show_default=True)
@click.option("--rounds", default=300, show_default=True)
def main(tokens: int, codes: int, batch: int, rounds: int) -> None:
    layout = PacketFormat(tokens, codes, GROUPS, bytes(32))
    rng = np.random.default_rng(0)
    group = rng.integers(0, GROUPS, batch).astype(np.int32)
    indices = rng.integers(0, codes, (batch, tokens)).astype(np.int32)

    def by_bitarray() -> bytes:
        bits = int2ba(int(group[0]), layout.group_bits)
        for index in indices[0].tolist():
            bits += int2ba(index, layout.code_bits)
        return bits.tobytes()

    payload = layout.pack_payload(group[:1], indices[:1])
    assert payload.tobytes() == by_bitarray()

    def from_bitarray() -> list[int]:
        bits = bitarray()
        bits.frombytes(payload.tobytes())
        width, start = layout.code_bits, layout.group_bits
        return [ba2int(bits[start + width * t : start + width * (t + 1)]) for t in range(tokens)]

    assert from_bitarray() == indices[0].tolist()
    packed = layout.pack(group, indices)
    one = interleave(
        {
            "stcq: payload": lambda: layout.pack_payload(group[:1], indices[:1]),
            "stcq: whole packet": lambda: layout.pack(group[:1], indices[:1]),
            "bitarray: payload": by_bitarray,
            "stcq: unpack a packet": lambda: layout.unpack(packed[:1]),
            "bitarray: unpack the payload": from_bitarray,
        },
        rounds,
    )
    table(one, "bitarray: payload", 1e3, "us")
    many = interleave(
        {f"stcq: {batch} packets": lambda: layout.pack(group, indices), "unpack them": lambda: layout.unpack(packed)},
        max(10, rounds // 10),
    )
    table(many, f"stcq: {batch} packets", 1e3 / batch, "us a packet")


if __name__ == "__main__":
    main()
