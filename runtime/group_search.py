"""Exact group selection over many groups that reads a small part of their codewords.

Switchable groups are variations of one set of books, so the codewords of one place (token t, index k) lie close to each
other in most groups. Each place gets an anchor, their mean, and two radii: one that holds all its codewords, and one
that holds all but the few loosest. By the triangle inequality a place can hold some group's nearest codeword only if
its anchor, less its radius, is not farther from the latent than what every group already has. Other places are never
read; those that only their loosest codewords bring near are read for these alone. Tokens whose books do not lie like
this are scanned.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.intp]
FIRST = 2  # nearest places that are read before the others are ruled out
LOOSE = 16  # one codeword of so many is loose
PIECE = 1 << 20  # bytes of codewords worked on at a time: they stay in the second-level cache
SCAN = 0.3  # a token with more near places is read as a whole: gathering costs twice what reading in order does
LONG = 64  # from this dimension on, codewords are read where they lie: each fills cache lines of its own
ERROR = 2.0**-20  # of a float32 distance, relative to ||z||^2 + ||c||^2, for each dimension: sixteen roundings


class Survey(NamedTuple):
    """Where the codewords of each place lie.

    Attributes:
        anchors: (T, K, d) float32.
        radii: (T, K) float32, at least the distance of every codeword from its anchor.
        usual: (T, K) float32, the same for all but the loose ones.
        loose: (T, K, n) the groups of the n codewords farthest from the anchor.
        norms: (M, T, K) float32, ||c||^2.
    """

    anchors: Floats
    radii: Floats
    usual: Floats
    loose: Integers
    norms: Floats


class Books(Protocol):
    """Where codewords are read from; distances are ||z_t - c||^2 less ||z_t||^2."""

    def nearest(self, z: Floats, token: int, codes: Integers | None) -> Floats:
        """Each group's least distance (M,) to z (d,) of a token over some of its K places, None = all."""

    def distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """Of z (T, d) to the codewords of all groups at N places: (N, M) float32."""

    def loose_distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """Of z (T, d) to the loose codewords at N places: (N, n) float32."""


class Columns:
    """A copy of the codebooks with the groups last, (T, K, d + 1, M), ||c||^2 in the last row; loose ones apart."""

    def __init__(self, codebooks: Floats, loose: Integers, norms: Floats) -> None:
        groups, tokens, codes, dim = codebooks.shape
        self.cells = np.empty((tokens, codes, dim + 1, groups), np.float32)
        self.few = np.empty((tokens, codes, dim + 1, loose.shape[2]), np.float32)
        for token, cells in enumerate(self.cells):
            books = codebooks[:, token]  # (M, K, d)
            cells[:, :dim] = books.transpose(1, 2, 0)
            cells[:, dim] = norms[:, token].T
            self.few[token] = np.take_along_axis(cells, loose[token][:, None], 2)
        self._buffer = np.empty((0, dim + 1, groups), np.float32)

    def nearest(self, z: Floats, token: int, codes: Integers | None) -> Floats:
        """See `Books`."""
        query = extended(z[None])[0]  # (d + 1,)
        if codes is None:
            table: Floats = np.einsum("d,kdm->km", query, self.cells[token])
        else:
            table = np.matmul(query, self._gather(self.cells[token], codes))
        least: Floats = table.min(0)
        return least

    def distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        _, per_token, height, groups = self.cells.shape
        cells = self._gather(self.cells.reshape(-1, height, groups), tokens * per_token + codes)
        table: Floats = np.matmul(extended(z)[tokens, None], cells)[:, 0]
        return table

    def loose_distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        table: Floats = np.matmul(extended(z)[tokens, None], self.few[tokens, codes])[:, 0]
        return table

    def _gather(self, cells: Floats, places: Integers) -> Floats:
        """Some of the cells (N, d + 1, M), in a buffer that the next call overwrites: fresh memory costs faults."""
        if len(self._buffer) < len(places):
            self._buffer = np.empty((len(places), *cells.shape[1:]), np.float32)
        return np.take(cells, places, 0, out=self._buffer[: len(places)], mode="clip")


def extended(z: Floats) -> Floats:
    """Latents (T, d) as what a cell is multiplied by, (T, d + 1): -2 z.c + ||c||^2."""
    return np.concatenate([-2 * z, np.ones((len(z), 1), np.float32)], 1)


class Rows:
    """The codebooks (M, T, K, d) as they lie, memory-mapped or not."""

    def __init__(self, codebooks: Floats, loose: Integers, norms: Floats) -> None:
        self.codebooks, self.loose, self.norms = codebooks, loose, norms

    def nearest(self, z: Floats, token: int, codes: Integers | None) -> Floats:
        """See `Books`: one group at a time, so that pieces stay small."""
        least = np.empty(len(self.codebooks), np.float32)
        for m, (books, norms) in enumerate(zip(self.codebooks[:, token], self.norms[:, token], strict=True)):
            some = slice(None) if codes is None else codes
            least[m] = (norms[some] - 2 * (books[some] @ z)).min()  # (K, d) @ (d,)
        return least

    def distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        groups = np.broadcast_to(np.arange(len(self.codebooks)), (len(tokens), len(self.codebooks)))
        return self._of(groups, z, tokens, codes)

    def loose_distances(self, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """See `Books`."""
        return self._of(self.loose[tokens, codes], z, tokens, codes)

    def _of(self, groups: Integers, z: Floats, tokens: Integers, codes: Integers) -> Floats:
        """Distances to the codewords of groups (N, n): (N, n), some places at a time."""
        table = np.empty(groups.shape, np.float32)
        step = max(1, PIECE // (4 * groups.shape[1] * z.shape[1]))
        for start in range(0, len(tokens), step):
            part = slice(start, start + step)
            place = groups[part], tokens[part, None], codes[part, None]
            dots = np.matmul(self.codebooks[place], z[tokens[part]][..., None])[..., 0]  # (N, n, d) x (N, d, 1)
            table[part] = self.norms[place] - 2 * dots
        return table


class GroupSearch:
    """Selects as float64 brute force would: m* = argmin_m sum_t min_k ||z_t - C[m, t, k]||^2, ties to the lowest index.

    Distances are found in float32 with a bound on their error; what the bound leaves open is decided in float64.

    Args:
        codebooks: (M, T, K, d) float32. They are read once for the survey; below 64 dimensions they are copied, too, in
            another order, and only the winning group is read from the original.

    Attributes:
        read: fraction of the codewords that the last search read, some of them twice.
    """

    def __init__(self, codebooks: Floats) -> None:
        self.codebooks = codebooks
        self.survey = survey(codebooks)
        self.powers = np.square(self.survey.anchors).sum(2)  # (T, K)
        kind = Rows if codebooks.shape[3] >= LONG else Columns
        self.books: Books = kind(codebooks, self.survey.loose, self.survey.norms)
        self._largest = self.survey.norms.max((0, 2))  # (T,)
        self.read = 0.0

    def select(self, latents: Floats) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Latents (B, T, d) float32 -> group (B,) int32 and indices (B, T) int32."""
        found = [self._select(z) for z in latents]
        group = np.array([m for m, _ in found], np.int32)
        return group, np.array([row for _, row in found], np.int32).reshape(len(found), latents.shape[1])

    def _select(self, z: Floats) -> tuple[int, NDArray[np.int32]]:
        """One face: z (T, d) -> its group and indices (T,)."""
        best, slack = self.nearest(z)
        errors = best.sum(0, dtype=np.float64)  # (M,)
        undecided = np.flatnonzero(errors <= errors.min() + 2 * slack.sum(dtype=np.float64))
        decided = [quantise(z, np.asarray(self.codebooks[m]), self.survey.norms[m], slack) for m in undecided]
        winner = int(np.argmin([error for error, _ in decided]))
        return int(undecided[winner]), decided[winner][1]

    def nearest(self, z: Floats) -> tuple[Floats, Floats]:
        """Each group's least distance from z (T, d) in each token.

        Returns:
            (T, M) float32, squared and less ||z_t||^2, and (T,) float32, how far these may be off.
        """
        anchors, radii, usual, loose, _ = self.survey
        tokens, codes = radii.shape
        power = np.square(z).sum(1)  # (T,)
        slack = np.float32(ERROR * (z.shape[1] + 8)) * (power + self._largest)
        squares = self.powers - 2 * np.matmul(anchors, z[..., None])[..., 0] + power[:, None]  # (T, K)
        away = np.sqrt(np.maximum(squares - slack[:, None], 0))  # at least so far is the anchor
        few = min(FIRST, codes)
        first = np.argpartition(away, few - 1, 1)[:, :few]  # (T, few)
        table = self.books.distances(z, np.repeat(np.arange(tokens), few), first.ravel())
        best: Floats = table.reshape(tokens, few, -1).min(1)  # (T, M)
        reach = np.sqrt(np.maximum(best.max(1) + power + slack, 0)) * np.float32(1 + 2**-20)  # every group has this
        np.put_along_axis(away, first, np.inf, 1)  # read already
        near, reachable = away - usual <= reach[:, None], away - radii <= reach[:, None]  # (T, K)
        share = near.mean(1)  # (T,)
        for token in np.flatnonzero(share):
            codes_near = None if share[token] > SCAN else np.flatnonzero(near[token])
            np.minimum(best[token], self.books.nearest(z[token], int(token), codes_near), out=best[token])
        some, their = np.nonzero(reachable & ~near)
        if some.size and loose.shape[2]:
            np.minimum.at(best, (some[:, None], loose[some, their]), self.books.loose_distances(z, some, their))
        read = (
            np.where(share > SCAN, 1, share).mean()
            + (first.size + some.size * loose.shape[2] / best.shape[1]) / near.size
        )
        self.read = float(read)
        return best, slack


def survey(codebooks: Floats) -> Survey:
    """Survey codebooks (M, T, K, d), one token at a time."""
    groups, tokens, codes, dim = codebooks.shape
    few = groups // LOOSE
    anchors = np.empty((tokens, codes, dim), np.float32)
    radii, usual = np.empty((tokens, codes), np.float32), np.empty((tokens, codes), np.float32)
    loose, norms = np.empty((tokens, codes, few), np.intp), np.empty((groups, tokens, codes), np.float32)
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


def quantise(z: Floats, books: Floats, norms: Floats, slack: Floats) -> tuple[float, NDArray[np.int32]]:
    """Quantise z (T, d) in one group's books (T, K, d) as float64 would.

    Args:
        norms: (T, K) float32, ||c||^2.
        slack: (T,) float32, how far a float32 distance may be off.

    Returns:
        The squared error sum_t min_k ||z_t - c||^2 in float64, and the indices (T,) int32.
    """
    table = norms - 2 * np.matmul(books, z[..., None])[..., 0]  # (T, K)
    rows, columns = np.nonzero(table <= (table.min(1) + 2 * slack)[:, None])  # one or a few of each row, in order
    exact = np.square(z[rows].astype(np.float64) - books[rows, columns]).sum(1)
    least = np.minimum.reduceat(exact, np.flatnonzero(np.diff(rows, prepend=-1)))  # (T,)
    hit = np.flatnonzero(exact == least[rows])
    places = hit[np.flatnonzero(np.diff(rows[hit], prepend=-1))]  # the first of each row
    return float(least.sum()), columns[places].astype(np.int32)
