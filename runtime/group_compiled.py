"""`group_search` compiled by numba, the optional extra `search`: half the bytes a codeword, no Python per place.

Codewords of a place are kept as 16-bit differences from its anchor; how far that moves any of them is measured, and
counts as slack like float32's rounding does. They lie in order of their distance from the anchor, farthest first, so a
place is read only as far as its codewords may be near: a bound for each sixteen in the place of the two radii of
`group_search`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .group_books import Floats, Integers, Survey
from .group_kernel import LINE, ROUND, search, within
from .group_vector import WIDE

ROUNDINGS = 2.0**-22  # four of float32's: for each dimension, of squared distances and radii; sums are of differences


class Found(NamedTuple):
    """What a face's search found.

    Attributes:
        undecided: (N,) groups that may be the nearest.
        best: (T, M + 1) float32, squared distances to each group's nearest codeword, and of no group.
        slack: (T,) float32, how far these may be off.
        away: (T, K) float32, at least the distances of anchors; 0 for places that were read first.
        places: (P,) int32, t * K + k of the places that were read, whole or in part.
        tokens: (P,) int32, their t.
        counts: (P,) int32, how many blocks of codewords were read of each.
    """

    undecided: Integers
    best: Floats
    slack: Floats
    away: Floats
    places: NDArray[np.int32]
    tokens: NDArray[np.int32]
    counts: NDArray[np.int32]


class Compiled:
    """A private copy of codebooks (M, T, K, d) to search, about (2 d + 2) M T K bytes.

    Attributes:
        cells: (T * K, size) int16, the place's anchor (d,) and step, float32, up to a cache line's end, and behind them
            blocks of 16 codewords, those farthest from the anchor first: the groups' numbers, and (d, 16) differences
            from the anchor in steps.
        widest: (T * K, blocks) float32, at least the distance of each block's codewords from the anchor.
        survey: the anchors (T, d, K), their radii (T, K) and a token's largest (T,), float32.
        own: (M, T * K) uint8, at least the distances of all codewords, in 255ths of places' widest.
        blur: (T,) float32, at least how far a codeword of a token is from what its differences say.
        read: fraction of the codewords that the last search read.
    """

    def __init__(self, codebooks: Floats, survey: Survey) -> None:
        groups, tokens, codes, dim = codebooks.shape
        self.groups, self.read = groups, 0.0
        blocks = -(-groups // WIDE)
        self.cells = lines(tokens * codes, 2 * (dim + 1), blocks * (dim + 1) * WIDE)
        self.widest, self.blur = np.empty((tokens * codes, blocks), np.float32), np.empty(tokens, np.float32)
        self.own = np.empty((groups, tokens * codes), np.uint8)
        for token in range(tokens):
            books = np.asarray(codebooks[:, token]).transpose(1, 2, 0)  # (K, d, M)
            self.blur[token] = self._keep(books, survey.anchors[token], slice(token * codes, (token + 1) * codes))
        radii = np.ascontiguousarray(self.widest[:, 0]).reshape(tokens, codes)
        anchors = np.ascontiguousarray(survey.anchors.transpose(0, 2, 1))  # (T, d, K)
        self.survey = anchors, radii, radii.max(1)

    def _keep(self, books: Floats, anchors: Floats, here: slice) -> np.float32:
        (codes, dim, groups), blocks = books.shape, self.widest.shape[1]
        apart = books - anchors[:, :, None].astype(np.float64)  # (K, d, M)
        step = (np.abs(apart).max((1, 2)) / 32767).astype(np.float32) * ROUND + np.float32(1e-30)
        steps = np.rint(apart / step[:, None, None])
        near = steps * step[:, None, None].astype(np.float64)
        far = np.sqrt(np.square(apart).sum(1))  # (K, M)
        order = np.argsort(-far, 1)
        self.widest[here] = np.take_along_axis(far, order[:, ::WIDE], 1) * ROUND + np.float32(1e-30)
        self.own[:, here] = np.ceil(far.T * (255 / self.widest[here, 0].astype(np.float64)))
        kept = np.empty((codes, blocks, dim + 1, WIDE), np.int16)
        steps = np.take_along_axis(steps, order[:, None], 2)  # (K, d, M)
        rest = (0, blocks * WIDE - groups)
        kept[:, :, 0] = np.pad(order, ((0, 0), rest), constant_values=groups).reshape(codes, blocks, WIDE)
        steps = np.pad(steps, ((0, 0), (0, 0), rest)).reshape(codes, dim, blocks, WIDE)
        kept[:, :, 1:] = steps.transpose(0, 2, 1, 3)
        self.cells[here, : 2 * dim] = anchors.view(np.int16)
        self.cells[here, 2 * dim : 2 * dim + 2] = step[:, None].view(np.int16)
        self.cells[here, self.cells.shape[1] - kept[0].size :] = kept.reshape(codes, -1)
        return np.float32(np.sqrt(np.square(apart - near).sum(1).max())) * ROUND

    def nearest(self, z: Floats) -> Found:
        """Each group's least distance from z (T, d) in each token, and which groups that leaves open."""
        query, roundings = np.array(z, np.float32, order="C"), np.float32(ROUNDINGS * (z.shape[1] + 8))
        found = Found(*search(query, self.groups, roundings, self.survey, self.cells, self.widest, self.blur))
        self.read = float(found.counts.sum()) / (self.widest.shape[1] * found.away.size)
        return found

    def within(self, z: Floats, books: Floats, group: int, found: Found) -> tuple[Integers, Integers]:
        """Tokens (N,) and indices (N,) of a group's codewords (T, K, d) that may be nearest to z (T, d), in order."""
        query, books = np.array(z, np.float32, order="C"), np.ascontiguousarray(books)
        bounds, places = (found.best, found.slack, found.away), (found.places, found.tokens)
        tokens, indices = within(query, books, group, *bounds, self.survey[1], self.own, *places)
        return tokens, indices


def lines(count: int, head: int, body: int) -> NDArray[np.int16]:
    """An array (count, size) int16 whose rows begin with cache lines and have room for head and body."""
    size = -(-head // LINE) * LINE + -(-body // LINE) * LINE
    memory = np.empty(count * size + LINE, np.int16)  # large, so numpy asks for huge pages
    start = -memory.ctypes.data % (2 * LINE) // 2
    return memory[start : start + count * size].reshape(count, size)
