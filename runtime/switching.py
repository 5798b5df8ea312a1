"""How a token's set of books is picked: by the group alone (the paper's way), by several switches, or by a trellis.

There are V sets of books. By default a group is a set, V = M. With S *switches* a group is one of M = V^S: its number,
written in base V, has for each run of T / S tokens the set that they take their books from, the first run's digit
first. With a *memory* of D tokens a group is the start of one of M = V^D walks: codes of the D tokens before pick a
token's set (runtime/trellis.py). Either way M groups cost the memory of V; walks cost a search on top of their time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import trellis

Floats = NDArray[np.float32]
Ints = NDArray[np.signedinteger[Any]]


def count_sets(groups: int, tokens: int, switches: int = 1, memory: int = 0, codes: int = 0) -> int:
    """V, sets of books of M groups over T tokens, with S switches or a memory of D tokens and K codewords a book.

    Raises:
        ValueError: M is no V^S or V^D, D is more than T, T cannot be divided among the switches, or K among V classes.
    """
    if memory and switches > 1:
        raise ValueError("a codec has several switches or a memory, not both; leave one out")
    if memory > tokens:
        raise ValueError(f"a memory of {memory} is longer than {tokens} tokens; use {tokens} at most")
    power, what = (memory, f"a memory of {memory}") if memory else (switches, f"{switches} switches")
    sets: int = round(groups ** (1 / power))
    if sets**power != groups:
        fewer = sets if sets**power < groups else sets - 1
        raise ValueError(
            f"{what} cannot make {groups} groups; use {fewer**power} or {(fewer + 1) ** power}, "
            f"or {'another memory' if memory else 'other switches'}"
        )
    if tokens % switches:
        raise ValueError(f"{tokens} tokens cannot be divided among {switches} switches; use a divisor of {tokens}")
    if memory and codes % sets:
        raise ValueError(f"{codes} codes cannot be divided among {sets} classes; use a multiple of {sets}")
    return sets


class Switching(NamedTuple):
    """Groups, tokens, switches, memory and codes of one model; codes are asked for with a memory only."""

    groups: int
    tokens: int
    switches: int = 1
    memory: int = 0
    codes: int = 0

    @property
    def sets(self) -> int:
        """V."""
        return count_sets(*self)

    def expand(self, group: Ints, indices: Ints | None = None) -> NDArray[np.int64]:
        """The set of books of every token: group (B,), with a memory also indices (B, T) -> (B, T).

        With a memory and fewer indices (B, n), n < T, the sets (B, n + 1) that are known by then.

        Raises:
            ValueError: there is a memory and no indices.
        """
        if self.memory:
            if indices is None:
                raise ValueError("with a memory the sets follow from the codes; give the indices")
            return trellis.sets_of(group, indices, self.sets, self.memory, self.codes)[:, : self.tokens]
        powers = self.sets ** np.arange(self.switches - 1, -1, -1)  # (S,)
        digits = np.asarray(group, np.int64)[:, None] // powers % self.sets  # (B, S)
        return np.repeat(digits, self.tokens // self.switches, 1)

    def books(self, codebooks: Floats, group: int) -> Floats:
        """Without memory, the books (T, K, d) of one group of codebooks (V, T, K, d); a view if there is one switch."""
        chosen: Floats
        if self.switches == 1:
            chosen = codebooks[group]
        else:
            chosen = codebooks[self.expand(np.array([group]))[0], np.arange(self.tokens)]
        return chosen

    def choose(self, errors: Floats) -> NDArray[np.int64]:
        """Without memory, the group (B,) of least error by the sets' errors of all tokens (V, B, T); ties to lowest."""
        parts = errors.reshape(*errors.shape[:2], self.switches, -1).sum(3)  # (V, B, S)
        digits = parts.argmin(0)  # (B, S)
        powers = self.sets ** np.arange(self.switches - 1, -1, -1)
        group: NDArray[np.int64] = digits @ powers
        return group
