"""Exact group selection over many groups that reads a small part of their codewords.

Switchable groups are variations of one set of books, so the codewords of one place (token t, index k) lie close to each
other in most groups. Each place gets an anchor, their mean, and two radii: one that holds all its codewords, and one
that holds all but the few loosest. By the triangle inequality a place can hold some group's nearest codeword only if
its anchor, less its radius, is not farther from the latent than what every group already has. Other places are never
read; those that only their loosest codewords bring near are read for these alone. Tokens whose books do not lie like
this are scanned, and so are books that do not at all, without looking at places first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .group_books import ERROR, Books, Columns, Flat, Floats, Integers, Rows, survey

if TYPE_CHECKING:
    from .group_compiled import Compiled

FIRST = 2  # nearest places that are read before the others are ruled out
SCAN = 0.3  # a token with more near places is read as a whole: gathering costs twice what reading in order does
LONG = 64  # from this dimension on, codewords are read where they lie: each fills cache lines of its own
WHOLE = 0.3  # books of which more is read are scanned without looking at places
STEP = 4096  # places read before their least distances are kept
GROUPS = 1 << 16  # the compiled search numbers them in 16 bits
TRIED = 4  # made-up faces that tell how much is read


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
        self._largest = self.survey.norms.max((0, 2))  # (T,)
        self.read = 0.0
        self.kernel: Compiled | None = None
        self.books: Books | Flat
        if codebooks.shape[3] >= LONG:
            self.books = Rows(codebooks, self.survey.loose, self.survey.norms)
            return
        if len(codebooks) < GROUPS and (kernel := compiled()):
            self.kernel = kernel(codebooks, self.survey)
            return
        self.books = Columns(codebooks, self.survey.loose, self.survey.norms)
        reads = []
        for z in like_latents(codebooks, TRIED):
            self.nearest(z)
            reads.append(self.read)
        if np.mean(reads) > WHOLE:
            self.books, self.read = Flat(self.books), 1.0

    def select(self, latents: Floats) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Latents (B, T, d) float32 -> group (B,) int32 and indices (B, T) int32."""
        found = [self._select(z) for z in latents]
        group = np.array([m for m, _ in found], np.int32)
        return group, np.array([row for _, row in found], np.int32).reshape(len(found), latents.shape[1])

    def _select(self, z: Floats) -> tuple[int, NDArray[np.int32]]:
        """One face: z (T, d) -> its group and indices (T,)."""
        decide = self._candidates if self.kernel is None else self._compiled_candidates
        candidates = decide(z)
        if len(candidates) == 1 and len(candidates[0][1]) == len(z):  # nothing for float64 to decide
            return candidates[0][0], candidates[0][2].astype(np.int32)
        decided = [exactly(z, np.asarray(self.codebooks[m]), rows, columns) for m, rows, columns in candidates]
        winner = int(np.argmin([error for error, _ in decided]))
        return candidates[winner][0], decided[winner][1]

    def _candidates(self, z: Floats) -> list[tuple[int, Integers, Integers]]:
        """Groups that may be the nearest to z (T, d), each with tokens (N,) and indices (N,) that may be its answer."""
        best, slack = self.nearest(z)
        errors = best.sum(0, dtype=np.float64)  # (M,)
        found = []
        for m in np.flatnonzero(errors <= errors.min() + 2 * slack.sum(dtype=np.float64)):
            table = self.survey.norms[m] - 2 * np.matmul(np.asarray(self.codebooks[m]), z[..., None])[..., 0]  # (T, K)
            rows, columns = np.nonzero(table <= (table.min(1) + 2 * slack)[:, None])
            found.append((int(m), rows, columns))
        return found

    def _compiled_candidates(self, z: Floats) -> list[tuple[int, Integers, Integers]]:
        """The same, with numba."""
        assert self.kernel
        found = self.kernel.nearest(z)
        self.read = self.kernel.read
        return [(int(m), *self.kernel.within(z, np.asarray(self.codebooks[m]), m, found)) for m in found.undecided]

    def nearest(self, z: Floats) -> tuple[Floats, Floats]:
        """Each group's least distance from z (T, d) in each token.

        Returns:
            (T, M) float32, squared and less ||z_t||^2, and (T,) float32, how far these may be off.
        """
        power = np.einsum("td,td->t", z, z)
        slack = np.float32(ERROR * (z.shape[1] + 8)) * (power + self._largest)
        if isinstance(self.books, Flat):
            return self.books.all_nearest(z), slack
        anchors, radii, usual, loose, _ = self.survey
        tokens, codes = radii.shape
        away = np.matmul(anchors, -2 * z[..., None])[..., 0]  # (T, K)
        away += self.powers
        away += (power - slack)[:, None]
        np.sqrt(np.maximum(away, 0, out=away), out=away)  # at least so far is the anchor
        few = min(FIRST, codes)
        first = np.argpartition(away, few - 1, 1)[:, :few]  # (T, few)
        table = self.books.distances(z, np.repeat(np.arange(tokens), few), first.ravel())
        best: Floats = table.reshape(tokens, few, -1).min(1)  # (T, M)
        reach = np.sqrt(np.maximum(best.max(1) + power + slack, 0)) * np.float32(1 + 2**-20)  # every group has this
        np.put_along_axis(away, first, np.inf, 1)  # read already
        away -= reach[:, None]
        near = away <= usual  # (T, K)
        share = near.mean(1)  # (T,)
        for token in np.flatnonzero(share > SCAN):
            np.minimum(best[token], self.books.nearest(z[token], int(token)), out=best[token])
        some, their = np.nonzero(near & (share <= SCAN)[:, None])
        for start in range(0, len(some), STEP):
            part = slice(start, start + STEP)
            starts = np.flatnonzero(np.diff(some[part], prepend=-1))  # where a token begins
            least = np.minimum.reduceat(self.books.distances(z, some[part], their[part]), starts, 0)
            rows = some[part][starts]
            best[rows] = np.minimum(best[rows], least)
        some, their = np.nonzero((away <= radii) & ~near)
        if some.size and loose.shape[2]:
            lower(best, some, loose[some, their], self.books.loose_distances(z, some, their))
        read = np.where(share > SCAN, 1, share).mean()
        self.read = float(read + (first.size + some.size * loose.shape[2] / best.shape[1]) / near.size)
        return best, slack


def lower(best: Floats, tokens: Integers, groups: NDArray[np.int32], table: Floats) -> None:
    """best[t, m] = min(best[t, m], table) in place, for tokens (N,), groups (N, n) and a table (N, n)."""
    places = tokens[:, None] * best.shape[1] + groups
    flat = best.reshape(-1)
    better = np.flatnonzero(table < flat[places])  # few: ufunc.at is slow
    np.minimum.at(flat, places.ravel()[better], table.ravel()[better])


def like_latents(codebooks: Floats, count: int) -> Floats:
    """Made-up latents (count, T, d): codewords of one group, moved as far as the next codeword of their book."""
    groups, tokens, codes, dim = codebooks.shape
    rng = np.random.default_rng(0)
    faces = np.empty((count, tokens, dim), np.float32)
    for face in faces:
        books = np.asarray(codebooks[rng.integers(groups)])  # (T, K, d)
        start = books[np.arange(tokens), rng.integers(codes, size=tokens)]
        squares = np.square(books - start[:, None]).sum(2)  # (T, K)
        apart = np.sqrt(np.partition(squares, min(1, codes - 1), 1)[:, min(1, codes - 1)])
        move = rng.standard_normal((tokens, dim), np.float32)
        face[:] = start + apart[:, None] * move / np.linalg.norm(move, axis=1, keepdims=True)
    return faces


def exactly(z: Floats, books: Floats, rows: Integers, columns: Integers) -> tuple[float, NDArray[np.int32]]:
    """Quantise z (T, d) in one group's books (T, K, d) as float64 would.

    Args:
        rows, columns: (N,) tokens and indices that may be the answer, one or a few of each token, in order.

    Returns:
        The squared error sum_t min_k ||z_t - c||^2 in float64, and the indices (T,) int32.
    """
    exact = np.square(z[rows].astype(np.float64) - books[rows, columns]).sum(1)
    least = np.minimum.reduceat(exact, np.flatnonzero(np.diff(rows, prepend=-1)))  # (T,)
    hit = np.flatnonzero(exact == least[rows])
    places = hit[np.flatnonzero(np.diff(rows[hit], prepend=-1))]  # the first of each row
    return float(least.sum()), columns[places].astype(np.int32)


def compiled() -> type[Compiled] | None:
    """The search as machine code, where numba is installed and finds a place to keep it."""
    try:
        from .group_compiled import Compiled
    except (ImportError, RuntimeError):  # the second: numba has no folder to write its cache to
        return None
    return Compiled
