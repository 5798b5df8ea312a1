"""A group and T indices as bits and back, most significant bit first, many faces at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Corrupt

PIECE = 1 << 17  # bytes
Ints = NDArray[np.integer[Any]]


def pack_bits(group: Ints, indices: Ints, group_bits: int, code_bits: int) -> NDArray[np.uint8]:
    """Group (B,) and indices (B, T), of so many bits each -> (B, P) uint8, padded with zero bits at the end."""
    pieces = [_pack(group[some], indices[some], group_bits, code_bits) for some in _pieces(*indices.shape)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


def unpack_bits(
    payloads: NDArray[np.uint8], tokens: int, group_bits: int, code_bits: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(B, P) uint8 -> group (B,) int32 and indices (B, T) int32.

    Raises:
        Corrupt: a padding bit is not zero.
    """
    pieces = [_unpack(payloads[some], tokens, group_bits, code_bits) for some in _pieces(len(payloads), tokens)]
    numbers = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return numbers[:, 0].astype(np.int32), numbers[:, 1:].astype(np.int32)


def _pieces(count: int, tokens: int) -> list[slice]:
    """Rows to work on at a time, none of them in one piece: their bits stay in the cache and in memory at hand."""
    step = max(1, PIECE // (tokens * 32))
    return [slice(start, start + step) for start in range(0, max(1, count), step)]


def _pack(group: Ints, indices: Ints, first: int, width: int) -> NDArray[np.uint8]:
    """See `pack_bits`: each number's bits, less the leading ones."""
    count, tokens = indices.shape
    numbers = np.empty((count, 1 + tokens), _container(first, width))
    numbers[:, 0], numbers[:, 1:] = group, indices
    bits = np.unpackbits(numbers.view(np.uint8)).reshape(count, 1 + tokens, 8 * numbers.itemsize)
    kept = np.empty((count, first + tokens * width), np.uint8)
    kept[:, :first] = bits[:, 0, bits.shape[2] - first :]
    kept[:, first:].reshape(count, tokens, width)[:] = bits[:, 1:, bits.shape[2] - width :]  # a view
    return np.packbits(kept, axis=1)  # padding bits are zero


def _unpack(payloads: NDArray[np.uint8], tokens: int, first: int, width: int) -> Ints:
    """(B, P) -> group and indices (B, 1 + T), unsigned; Corrupt: a padding bit is not zero."""
    count, used = len(payloads), first + tokens * width
    container = _container(first, width)
    kept = np.unpackbits(payloads, axis=1)  # (B, 8 P)
    if kept[:, used:].any():
        raise Corrupt("packet has padding bits that are not zero; it is damaged: ask the sender again")
    bits = np.zeros((count, 1 + tokens, 8 * container.itemsize), np.uint8)
    bits[:, 0, bits.shape[2] - first :] = kept[:, :first]
    bits[:, 1:, bits.shape[2] - width :] = kept[:, first:used].reshape(count, tokens, width)
    return np.packbits(bits).view(container).reshape(count, 1 + tokens)


def _container(first: int, width: int) -> np.dtype[Any]:
    """The least unsigned big-endian integer that holds a group and an index."""
    most = max(first, width)
    return np.dtype(np.uint8 if most <= 8 else ">u2" if most <= 16 else ">u4")
