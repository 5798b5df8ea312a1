"""How a group picks its books: by one switch for all tokens (the paper's), or by several, each for a run of tokens.

With S switches and V sets of books a group is one of M = V^S: its number, written in base V, has for each run of T / S
tokens the set that they take their books from, the first run's digit first. M groups then cost the memory and time of
V. With S = 1 every group is a set of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.signedinteger[Any]]


def count_sets(groups: int, tokens: int, switches: int) -> int:
    """V, sets of books of M groups with S switches over T tokens.

    Raises:
        ValueError: M is no V^S, or T cannot be divided among the switches.
    """
    sets: int = round(groups ** (1 / switches))
    if sets**switches != groups:
        fewer = sets if sets**switches < groups else sets - 1
        fitting = f"{fewer**switches} or {(fewer + 1) ** switches}"
        raise ValueError(f"{switches} switches cannot make {groups} groups; use {fitting}, or other switches")
    if tokens % switches:
        raise ValueError(f"{tokens} tokens cannot be divided among {switches} switches; use a divisor of {tokens}")
    return sets


class Switching(NamedTuple):
    """Groups, tokens and switches of one model."""

    groups: int
    tokens: int
    switches: int = 1

    @property
    def sets(self) -> int:
        """V."""
        return count_sets(self.groups, self.tokens, self.switches)

    def expand(self, group: Ints) -> NDArray[np.int64]:
        """The set of books of every token: group (B,) -> (B, T)."""
        powers = self.sets ** np.arange(self.switches - 1, -1, -1)  # (S,)
        digits = np.asarray(group, np.int64)[:, None] // powers % self.sets  # (B, S)
        return np.repeat(digits, self.tokens // self.switches, 1)

    def books(self, codebooks: Floats, group: int) -> Floats:
        """The books (T, K, d) of one group, from codebooks (V, T, K, d); a view where there is one switch."""
        chosen: Floats
        if self.switches == 1:
            chosen = codebooks[group]
        else:
            chosen = codebooks[self.expand(np.array([group]))[0], np.arange(self.tokens)]
        return chosen

    def choose(self, errors: Floats) -> NDArray[np.int64]:
        """The group (B,) of least error, from the sets' errors of every token (V, B, T); ties to the lowest."""
        parts = errors.reshape(*errors.shape[:2], self.switches, -1).sum(3)  # (V, B, S)
        digits = parts.argmin(0)  # (B, S)
        powers = self.sets ** np.arange(self.switches - 1, -1, -1)
        group: NDArray[np.int64] = digits @ powers
        return group
