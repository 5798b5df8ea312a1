"""`group_search` compiled by numba, the optional extra `search`: half the bytes a codeword, no Python per place.

Codewords of a place are kept as 16-bit differences from its anchor; how far that moves any of them is measured, and
counts as slack like float32's rounding does. What is read follows the same bounds as in `group_search`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .group_books import ERROR, Floats, Integers, Survey
from .group_kernel import search, within


class Compiled:
    """A private copy of codebooks (M, T, K, d) to search, about (2 d + 4) M T K bytes.

    Attributes:
        cells: (T * K, 2 + d, M) int16, differences from the anchor in steps of `step` behind two rows that are their
            squared norms, (M,) float32.
        step: (T * K,) float32.
        blur: (T,) float32, at least how far a codeword of a token is from what its differences say.
        rows: (T * K * n, d + 1) float32, the loose codewords with the widest of a place first, ||c||^2 in the end.
        reaches: (T * K, n) float32, their distances from the anchor.
        read: fraction of the codewords that the last search read.
    """

    def __init__(self, codebooks: Floats, survey: Survey) -> None:
        groups, tokens, codes, dim = codebooks.shape
        few = survey.loose.shape[2]
        self.survey, self.read = survey, 0.0
        self.anchors = np.ascontiguousarray(survey.anchors.transpose(0, 2, 1))  # (T, d, K)
        self.largest = survey.norms.max((0, 2))  # (T,)
        self.cells = np.empty((tokens * codes, dim + 2, groups), np.int16)
        self.step, self.blur = np.empty(tokens * codes, np.float32), np.empty(tokens, np.float32)
        self.rows = np.empty((tokens * codes * few, dim + 1), np.float32)
        self.loose = np.empty((tokens * codes, few), np.int32)
        self.reaches = np.empty((tokens * codes, few), np.float32)
        for token in range(tokens):
            books = np.asarray(codebooks[:, token]).transpose(1, 2, 0)  # (K, d, M)
            here = slice(token * codes, (token + 1) * codes)
            self.blur[token] = self._keep_cells(books, survey.anchors[token, :, :, None], here)
            self._keep_loose(books, survey.anchors[token, :, :, None], survey.loose[token], here)

    def _keep_cells(self, books: Floats, anchors: Floats, here: slice) -> np.float32:
        apart = books - anchors.astype(np.float64)  # (K, d, M)
        step = (np.abs(apart).max((1, 2)) / 32767).astype(np.float32) * np.float32(1 + 2**-20) + np.float32(1e-30)
        steps = np.rint(apart / step[:, None, None])
        self.step[here], self.cells[here, 2:] = step, steps
        near = steps * step[:, None, None].astype(np.float64)
        norms = np.square(near).sum(1).astype(np.float32, order="C")  # (K, M)
        self.cells[here, :2] = norms.view(np.int16).reshape(len(step), 2, -1)
        return np.float32(np.sqrt(np.square(apart - near).sum(1).max())) * np.float32(1 + 2**-20)

    def _keep_loose(self, books: Floats, anchors: Floats, loose: NDArray[np.int32], here: slice) -> None:
        codes, few = loose.shape
        if not few:
            return
        found = np.take_along_axis(books, loose[:, None], 2)  # (K, d, n)
        reach = np.sqrt(np.square(found - anchors).sum(1)) * np.float32(1 + ERROR * (books.shape[1] + 8))
        order = np.argsort(-reach, 1)
        found = np.take_along_axis(found, order[:, None], 2).transpose(0, 2, 1)  # (K, n, d)
        rows = self.rows[here.start * few : here.stop * few].reshape(codes, few, -1)
        rows[..., :-1], rows[..., -1] = found, np.square(found).sum(2)
        self.loose[here] = np.take_along_axis(loose, order, 1)
        self.reaches[here] = np.take_along_axis(reach, order, 1) + np.float32(1e-30)

    def nearest(self, z: Floats) -> tuple[Floats, Floats, Floats]:
        """Each group's least distance from z (T, d) in each token.

        Returns:
            (T, M) float32, squared and less ||z_t||^2; (T,) float32, how far these may be off; (T, K) float32, at
            least how far the anchors are.
        """
        away = np.empty(self.survey.radii.shape, np.float32)
        best, slack = np.empty((len(away), self.cells.shape[2]), np.float32), np.empty(len(away), np.float32)
        read = search(
            np.array(z, np.float32, order="C"),
            np.float32(ERROR * (z.shape[1] + 8)),
            (self.anchors, self.largest, self.survey.radii, self.survey.usual),
            (self.cells, self.step, self.blur),
            (self.rows, self.loose, self.reaches),
            (best, slack, away),
        )
        self.read = read / (best.shape[1] * away.size)
        return best, slack, away

    def within(self, z: Floats, books: Floats, bound: Floats, away: Floats) -> tuple[Integers, Integers]:
        """Tokens (N,) and indices (N,) of one group's codewords (T, K, d) with ||z_t - c||^2 <= bound (T,).

        A bound is to leave room for float32's roundings; `away` is what `nearest` gave for this z (T, d).
        """
        places = np.empty(away.size, np.int32)
        count = within(np.array(z, np.float32, order="C"), books, bound, away, self.survey.radii, places)
        tokens, indices = np.divmod(places[:count].astype(np.intp), away.shape[1])
        return tokens, indices
