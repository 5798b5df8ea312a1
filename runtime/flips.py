"""Selections that differ from a reference, each with the gap in distance that says how near a tie it was."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .search import distances
from .switching import Switching


class Flip(NamedTuple):
    """A selection that differs from the reference.

    Attributes:
        face: which image.
        token: which token; None = the group differs.
        wanted, found: the reference's index and this machine's.
        gap: relative distance gap between the two.
    """

    face: int
    token: int | None
    wanted: int
    found: int
    gap: float

    def text(self) -> str:
        """One line."""
        what = "group" if self.token is None else f"token {self.token}"
        return f"face {self.face}, {what}: {self.found}, torch has {self.wanted} (gap {self.gap:.2g})"


def find_flips(
    latents: NDArray[np.float32],
    codebooks: NDArray[np.float32],
    wanted: tuple[NDArray[Any], NDArray[Any]],
    found: tuple[NDArray[Any], NDArray[Any]],
    switching: Switching | None = None,
) -> list[Flip]:
    """All differing selections with their relative gaps.

    A group that differs counts (E_found - E_wanted) / E_wanted of the whole-image errors; a token that differs
    with the same set of books counts the difference of its squared distances over the mean squared token norm. With a
    memory, where one code moves others, a face counts once, like a group, from the first token that differs.
    """
    flips = []
    switching = switching or Switching(*codebooks.shape[:2])
    scale = max(float(np.square(latents).sum(2).mean()), 1e-12)
    rows = zip(latents, *wanted, *found, strict=True)
    for face, (z, m, row, n, other) in enumerate(rows):
        if m == n and np.array_equal(row, other):
            continue
        if switching.memory:
            flips.append(walk_flip(face, z, codebooks, (m, row), (n, other), switching))
            continue
        table = distances(z[None], switching.books(codebooks, m))[0].astype(np.float64)  # (T, K)
        if m != n:
            power = np.square(z, dtype=np.float64).sum()
            ours = power + table.min(1).sum()
            theirs = power + distances(z[None], switching.books(codebooks, n))[0].min(1).sum(dtype=np.float64)
            flips.append(Flip(face, None, int(m), int(n), float(abs(theirs - ours) / max(ours, 1e-12))))
        same = np.equal(*switching.expand(np.array([m, n]), np.stack([row, other])))  # (T,), all with one switch
        for token in np.flatnonzero(same & (row != other)):
            gap = float(abs(table[token, row[token]] - table[token, other[token]])) / scale
            flips.append(Flip(face, int(token), int(row[token]), int(other[token]), gap))
    return flips


def walk_flip(
    face: int, z: NDArray[np.float32], codebooks: NDArray[np.float32], wanted: Any, found: Any, switching: Switching
) -> Flip:
    """Two walks through the books: (group, indices (T,)) each; the gap is that of their whole-image errors."""
    errors = []
    for m, row in (wanted, found):
        sets = switching.expand(np.array([m]), np.asarray(row)[None])[0]
        codes = codebooks[sets, np.arange(len(row)), row]
        errors.append(float(np.square(z.astype(np.float64) - codes).sum()))
    gap = abs(errors[1] - errors[0]) / max(errors[0], 1e-12)
    if wanted[0] != found[0]:
        return Flip(face, None, int(wanted[0]), int(found[0]), gap)
    token = int(np.flatnonzero(wanted[1] != found[1])[0])
    return Flip(face, token, int(wanted[1][token]), int(found[1][token]), gap)
