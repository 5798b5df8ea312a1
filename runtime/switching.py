"""How a token's set of books is picked: by the group alone (the paper's way), by several switches, or by a trellis.

There are V sets of books. By default a group is a set, V = M. With S *switches* a group is one of M = V^S: its number,
written in base V, has for each run of T / S tokens the set that they take their books from, the first run's digit
first. With a *memory* of D tokens a group is the start of one of M = V^D walks: classes of codes, V of them, of the D
tokens before pick a token's set (runtime/trellis.py), among V sets or another number of them. Either way M groups cost
the memory of the sets; walks cost a search on top of their time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .trellis import Register

Floats = NDArray[np.float32]
Ints = NDArray[np.signedinteger[Any]]


def count_sets(
    groups: int,
    tokens: int,
    switches: int = 1,
    memory: int = 0,
    codes: int = 0,
    memory_sets: int = 0,
    memory_weights: Sequence[int] = (),
) -> int:
    """Sets of books of M groups over T tokens, with S switches or a memory of D tokens and K codewords a book.

    Raises:
        ValueError: M is no V^S or V^D, D is more than T, T cannot be divided among the switches, K among V classes, or
            the memory's sets or weights are none that it can have.
    """
    if memory and switches > 1:
        raise ValueError("a codec has several switches or a memory, not both; leave one out")
    if not memory and (memory_sets or memory_weights):
        raise ValueError("sets and weights of a memory need a memory; give one, or leave them out")
    if memory > tokens:
        raise ValueError(f"a memory of {memory} is longer than {tokens} tokens; use {tokens} at most")
    power, what = (memory, f"a memory of {memory}") if memory else (switches, f"{switches} switches")
    ways: int = round(groups ** (1 / power))
    if ways**power != groups:
        fewer = ways if ways**power < groups else ways - 1
        raise ValueError(
            f"{what} cannot make {groups} groups; use {fewer**power} or {(fewer + 1) ** power}, "
            f"or {'another memory' if memory else 'other switches'}"
        )
    if tokens % switches:
        raise ValueError(f"{tokens} tokens cannot be divided among {switches} switches; use a divisor of {tokens}")
    if memory and codes % ways:
        raise ValueError(f"{codes} codes cannot be divided among {ways} classes; use a multiple of {ways}")
    if memory_weights and (len(memory_weights) != memory or min(memory_weights) < 1):
        given = ",".join(map(str, memory_weights))
        raise ValueError(f"a memory of {memory} has as many weights of at least 1, not {given}; give {memory} of them")
    if memory_sets > groups:
        raise ValueError(f"{groups} groups cannot pick among {memory_sets} sets; use {groups} at most")
    return memory_sets or ways


class Switching(NamedTuple):
    """How the groups of one model pick; codes are asked for with a memory only.

    Attributes:
        groups, tokens, switches, memory, codes: M, T, S, D, K.
        memory_sets: sets of books of a memory; 0 = as many as classes.
        memory_weights: D whole numbers, of the newest class first; none = all 1.
    """

    groups: int
    tokens: int
    switches: int = 1
    memory: int = 0
    codes: int = 0
    memory_sets: int = 0
    memory_weights: tuple[int, ...] = ()

    @property
    def sets(self) -> int:
        """Sets of books; errors as of `count_sets`."""
        return count_sets(*self)

    @property
    def register(self) -> Register:
        """With a memory, what it is."""
        classes = count_sets(*self[:5])
        return Register(classes, self.memory, self.sets, self.memory_weights or (1,) * self.memory)

    def expand(self, group: Ints, indices: Ints | None = None) -> NDArray[np.int64]:
        """The set of books of every token: group (B,), with a memory also indices (B, T) -> (B, T).

        With a memory and fewer indices (B, n), n < T, the sets (B, n + 1) that are known by then.

        Raises:
            ValueError: there is a memory and no indices.
        """
        if self.memory:
            if indices is None:
                raise ValueError("with a memory the sets follow from the codes; give the indices")
            return self.register.sets_of(group, indices, self.codes)[:, : self.tokens]
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
