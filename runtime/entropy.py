"""Entropy-coded packets (docs/bitstream.md, flag bit 0): static code frequencies and an exact integer range coder.

The interval of a range coder is kept as whole Python integers of any length, so nothing is rounded, nothing carries,
and every machine writes the same bytes.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, Corrupt
from .manifest import TABLES
from .packet import CODED, COMPACT, TAIL, PacketFormat, is_coded
from .safetensors import load_file
from .switching import Switching

BITS = 16  # frequencies of a table add up to 2^16
TOTAL = 1 << BITS
Ints = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class EntropyFormat:
    """Packets of one model and one set of tables.

    Attributes:
        plain: the model's packets without tables.
        groups: frequencies of the groups (M,), which add up to 2^16, each at least 1.
        codes: frequencies of the codes (V, T, K), of which each row adds up to 2^16.
        switching: how the V sets of books are picked; None = a group is a set.
    """

    plain: PacketFormat
    groups: NDArray[np.int64]
    codes: NDArray[np.int64]
    switching: Switching | None = None

    @classmethod
    def load(cls, path: Path, plain: PacketFormat, switching: Switching | None = None) -> EntropyFormat:
        """Read a bundle's tables: "groups" (M,) and "codes" (V, T, K), uint16, each a frequency minus one.

        Raises:
            BundleError: they do not fit the model.
        """
        tensors = load_file(path)
        groups, codes = (tensors.get(name, np.zeros(0, np.uint16)).astype(np.int64) + 1 for name in ("groups", "codes"))
        sets = switching.sets if switching else plain.groups
        shapes = (groups.shape, codes.shape) == ((plain.groups,), (sets, plain.tokens, plain.codes))
        if not shapes or groups.sum() != TOTAL or (codes.sum(-1) != TOTAL).any():
            raise BundleError(f"{TABLES} does not fit the model; calibrate the bundle again")
        return cls(plain, groups, codes, switching)

    @cached_property
    def identity(self) -> bytes:
        """SHA-256 over both tables as little-endian 32-bit integers: other tables would give another face."""
        total = hashlib.sha256(self.groups.astype("<u4").tobytes())
        total.update(self.codes.astype("<u4").tobytes())
        return total.digest()

    def pack(self, group: Ints, indices: Ints, compact: bool = False) -> list[bytes]:
        """Group (B,) and indices (B, T) -> B packets; where coding would not shorten one, it is a plain packet.

        Raises:
            PacketError: a shape or a value does not fit the model.
        """
        packets = self.plain.pack(group, indices, compact)
        for place, (m, row) in enumerate(zip(np.atleast_1d(group), np.atleast_2d(indices), strict=True)):
            payload = encode_symbols(self._intervals(int(m), row))
            if len(payload) < self.plain.payload_bytes:
                packets[place] = self.plain.frame(payload, CODED | COMPACT * compact, self.identity)
        return packets

    def unpack(self, packets: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Packets, coded or plain -> group (B,) int32 and indices (B, T) int32.

        Raises:
            WrongModel: a packet of another model.
            UnsupportedVersion: another format version or unknown flags.
            Corrupt: anything else that is not exactly what `pack` writes.
        """
        group, indices = np.zeros(len(packets), np.int32), np.zeros((len(packets), self.plain.tokens), np.int32)
        for row, packet in enumerate(packets):
            if is_coded(packet):
                group[row], indices[row] = self._symbols(packet)
            else:
                group[row : row + 1], indices[row : row + 1] = self.plain.unpack([packet])
        return group, indices

    def _symbols(self, packet: bytes) -> tuple[int, list[int]]:
        """Group and indices of one coded packet."""
        start = self.plain.verify_header(packet, CODED)
        if not start + TAIL <= len(packet) < start + self.plain.payload_bytes + TAIL:
            raise Corrupt(f"coded packet has {len(packet)} bytes, more or fewer than any; it is cut or no packet")
        self.plain.verify_checksum(packet, self.identity)
        payload = packet[start:-TAIL]
        reader = _Reader(payload, 1 + self.plain.tokens)
        group = reader.symbol(self._group_starts)
        indices: list[int] = []
        for token in range(self.plain.tokens):
            row = self.codes[self._sets(group, indices)[token], token]
            indices.append(reader.symbol(_starts(row)))
        if encode_symbols(self._intervals(group, indices)) != payload:
            raise Corrupt("coded payload is not the shortest one of its face; it is damaged: ask the sender again")
        return group, indices

    def _intervals(self, group: int, indices: Sequence[int] | Ints) -> list[tuple[int, int]]:
        """(start, frequency) of the group and of each token's code."""
        found = [(self._group_starts[group], int(self.groups[group]))]
        rows = self.codes[self._sets(group, indices), np.arange(self.plain.tokens)]  # (T, K)
        for row, index in zip(rows, indices, strict=True):
            found.append((int(row[:index].sum()), int(row[index])))
        return found

    def _sets(self, group: int, indices: Sequence[int] | Ints) -> NDArray[np.int64]:
        """The sets of books of the tokens; with a memory as far as the codes before them are given."""
        switching = self.switching or Switching(self.plain.groups, self.plain.tokens)
        sets: NDArray[np.int64] = switching.expand(np.array([group]), np.asarray(indices, np.int64)[None])[0]
        return sets

    @cached_property
    def _group_starts(self) -> list[int]:
        return _starts(self.groups)


def encode_symbols(intervals: Sequence[tuple[int, int]]) -> bytes:
    """The shortest bytes whose value, as a binary fraction, lies in the interval of these symbols.

    With n symbols of starts c and frequencies f the interval is [low, low + width) / 2^(16 n), where each symbol makes
    low = low * 2^16 + width * c and width = width * f (Martin 1979, with exact integers).
    """
    low, width = 0, 1
    for start, frequency in intervals:
        low = (low << BITS) + width * start
        width *= frequency
    bits = BITS * len(intervals)
    for size in range(bits // 8 + 1):
        shift = bits - 8 * size
        value = -(-low >> shift)  # the least value of so many bytes that is not below the interval
        if value << shift < low + width and value < 1 << 8 * size:
            return value.to_bytes(size, "big")
    raise AssertionError("the interval holds its own lower end")


class _Reader:
    """Symbols of one payload, in order."""

    def __init__(self, payload: bytes, symbols: int) -> None:
        """Start; bytes that are not there count as zero, bytes beyond all symbols fail the comparison afterwards."""
        self._left = BITS * symbols
        bits = 8 * len(payload)
        value = int.from_bytes(payload, "big")
        self._value = value << (self._left - bits) if bits <= self._left else value >> (bits - self._left)
        self._width = 1

    def symbol(self, starts: list[int]) -> int:
        """The next symbol, whose interval begins at starts[symbol]."""
        self._left -= BITS
        place = (self._value >> self._left) // self._width
        found = bisect_right(starts, place) - 1
        following = starts[found + 1] if found + 1 < len(starts) else TOTAL
        self._value -= self._width * starts[found] << self._left
        self._width *= following - starts[found]
        return found


def _starts(frequencies: NDArray[np.int64]) -> list[int]:
    """Where each symbol's interval begins."""
    return [0, *np.cumsum(frequencies)[:-1].tolist()]
