"""Where `group_search` reads codewords: a survey of where they lie, and the ways they are kept."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]
LOOSE = 16  # one codeword of so many is loose
PIECE = 1 << 18  # bytes of codewords gathered at a time: they stay in the second-level cache
ERROR = 2.0**-20  # of a float32 distance, relative to ||z||^2 + ||c||^2, for each dimension: sixteen roundings


class Survey(NamedTuple):
    """Where the codewords of each place lie.

    Attributes:
        anchors: (T, K, d) float32.
        radii: (T, K) float32, at least the distance of every codeword from its anchor.
        usual: (T, K) float32, the same for all but the loose ones.
        loose: (T, K, n) int32, the groups of the n codewords farthest from the anchor.
        norms: (M, T, K) float32, ||c||^2.
    """

    anchors: Floats
    radii: Floats
    usual: Floats
    loose: NDArray[np.int32]
    norms: Floats


def survey(codebooks: Floats) -> Survey:
    """Survey codebooks (M, T, K, d), one token at a time."""
    groups, tokens, codes, dim = codebooks.shape
    few = groups // LOOSE
    anchors = np.empty((tokens, codes, dim), np.float32)
    radii, usual = np.empty((tokens, codes), np.float32), np.empty((tokens, codes), np.float32)
    loose, norms = np.empty((tokens, codes, few), np.int32), np.empty((groups, tokens, codes), np.float32)
    for token in range(tokens):
        books = np.asarray(codebooks[:, token])  # (M, K, d)
        anchors[token] = books.mean(0)
        apart = np.sqrt(np.square(books - anchors[token]).sum(2)).T  # (K, M)
        apart = apart * np.float32(1 + ERROR * (dim + 8)) + np.float32(1e-30)  # at least the distance
        order = np.argpartition(apart, groups - few - 1, 1)
        loose[token] = order[:, groups - few :]
        radii[token] = apart.max(1)
        usual[token] = np.take_along_axis(apart, order[:, groups - few - 1 : groups - few], 1)[:, 0]
        norms[:, token] = np.einsum("mkd,mkd->mk", books, books)
    return Survey(anchors, radii, usual, loose, norms)


class Books(Protocol):
    """Where codewords are read from; distances are ||z_t - c||^2 less ||z_t||^2."""

    def nearest(self, z: Floats, token: int) -> Floats:
        """Each group's least distance (M,) to z (d,) of a token."""

    def distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """Of z (T, d) to the codewords of all groups at N places: (N, M) float32."""

    def loose_distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """Of z (T, d) to the loose codewords at N places: (N, n) float32."""


class Columns:
    """A copy of the codebooks with the groups last, (T, K, d + 1, M), ||c||^2 in the last row; loose ones apart."""

    def __init__(self, codebooks: Floats, loose: NDArray[np.int32], norms: Floats) -> None:
        groups, tokens, codes, dim = codebooks.shape
        self.cells = np.empty((tokens, codes, dim + 1, groups), np.float32)
        self.few = np.empty((tokens, codes, dim + 1, loose.shape[2]), np.float32)
        for token, cells in enumerate(self.cells):
            books = codebooks[:, token]  # (M, K, d)
            cells[:, :dim] = books.transpose(1, 2, 0)
            cells[:, dim] = norms[:, token].T
            self.few[token] = np.take_along_axis(cells, loose[token][:, None], 2)

    def nearest(self, z: Floats, token: int) -> Floats:
        """See `Books`."""
        least: Floats = np.einsum("d,kdm->km", extended(z[None])[0], self.cells[token]).min(0)
        return least

    def distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        return products(extended(z), self.cells, tokens, codes)

    def loose_distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        return products(extended(z), self.few, tokens, codes)


class Flat:
    """The same copy for books that must be read whole: (T, d + 1, K * M), one matrix product a token."""

    def __init__(self, columns: Columns) -> None:
        tokens, codes, height, groups = columns.cells.shape
        for cells in columns.cells:  # in the memory that they have
            cells.reshape(height, codes, groups)[:] = cells.transpose(1, 0, 2).copy()
        self.matrices = columns.cells.reshape(tokens, height, codes * groups)
        self.groups = groups

    def all_nearest(self, z: Floats) -> Floats:
        """Each group's least distance (T, M) from z (T, d) in every token, less ||z_t||^2."""
        best = np.empty((len(z), self.groups), np.float32)
        table = np.empty(self.matrices.shape[2], np.float32)
        for query, matrix, row in zip(extended(z), self.matrices, best, strict=True):
            np.matmul(query, matrix, out=table)
            table.reshape(-1, self.groups).min(0, out=row)
        return best


class Rows:
    """The codebooks (M, T, K, d) as they lie, memory-mapped or not."""

    def __init__(self, codebooks: Floats, loose: NDArray[np.int32], norms: Floats) -> None:
        self.codebooks, self.loose, self.norms = codebooks, loose, norms

    def nearest(self, z: Floats, token: int) -> Floats:
        """See `Books`: one group at a time, so that pieces stay small."""
        least = np.empty(len(self.codebooks), np.float32)
        for m, (books, norms) in enumerate(zip(self.codebooks[:, token], self.norms[:, token], strict=True)):
            least[m] = (norms - 2 * (books @ z)).min()  # (K, d) @ (d,)
        return least

    def distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        groups = np.broadcast_to(np.arange(len(self.codebooks)), (len(tokens), len(self.codebooks)))
        return self._of(groups, z, tokens, codes)

    def loose_distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        return self._of(self.loose[tokens, codes], z, tokens, codes)

    def _of(self, groups: NDArray[np.signedinteger[Any]], z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """Distances to the codewords of groups (N, n): (N, n), some places at a time."""
        table = np.empty(groups.shape, np.float32)
        step = max(1, PIECE // (4 * max(1, groups.shape[1]) * z.shape[1]))
        for start in range(0, len(tokens), step):
            part = slice(start, start + step)
            place = groups[part], tokens[part, None], codes[part, None]
            dots = np.matmul(self.codebooks[place], z[tokens[part]][..., None])[..., 0]  # (N, n, d) x (N, d, 1)
            table[part] = self.norms[place] - 2 * dots
        return table


def extended(z: Floats) -> Floats:
    """Latents (T, d) as what a cell is multiplied by, (T, d + 1): -2 z.c + ||c||^2."""
    return np.concatenate([-2 * z, np.ones((len(z), 1), np.float32)], 1)


def products(queries: Floats, cells: Floats, tokens: Integers, codes: Integers) -> Floats:
    """Queries (T, h) times the cells (T, K, h, w) at N places: (N, w).

    A few cells at a time are copied into a buffer: a copy streams from memory at twice the speed of a small product.
    """
    _, per_token, height, width = cells.shape
    flat, places = cells.reshape(-1, height, width), tokens * per_token + codes
    rows, table = queries[tokens, None], np.empty((len(places), 1, width), np.float32)
    step = max(1, PIECE // max(1, 4 * height * width))
    buffer = np.empty((min(step, len(places)), height, width), np.float32)
    for start in range(0, len(places), step):
        some = places[start : start + step]
        part = flat.take(some, 0, buffer[: len(some)], "clip")
        np.matmul(rows[start : start + step], part, out=table[start : start + step])
    return table[:, 0]
