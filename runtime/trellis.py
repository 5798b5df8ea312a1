"""Trellis switching: the codes of the last tokens pick the next token's set of books (docs/bitstream.md).

Trellis coded vector quantization (Fischer, Marcellin, Wang 1991) in the form of a shift register (Mao, Gray 2010). The
state before a token is the classes of the D tokens before it, a number in base V whose lowest digit is the newest; its
digits' weighted sum modulo the number of sets is the token's set of books. A set's K codewords make V classes of K / V
in a row, and the class of the chosen one becomes the newest digit: state' = (V state + class) mod M. The group is the
state before the first token, so M = V^D.

As any codeword but those of one class leads to other sets for D tokens, the least error of a face is a shortest path,
found by dynamic programming (Viterbi 1967) from the last token backwards: `costs` has what the rest of a face costs
from every state, and `trace` follows the least of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.signedinteger[Any]]


class Register(NamedTuple):
    """The shift register.

    Attributes:
        classes: V, of the codewords of a set.
        memory: D, classes that it holds.
        sets: of books, among which its content picks.
        weights: D whole numbers, of the newest class first.
    """

    classes: int
    memory: int
    sets: int
    weights: tuple[int, ...]

    @property
    def states(self) -> int:
        """M = V^D."""
        return int(self.classes**self.memory)

    @property
    def rest(self) -> int:
        """States that differ in more than the oldest class, V^(D - 1)."""
        return int(self.classes ** (self.memory - 1))

    def set_of_states(self) -> NDArray[np.int64]:
        """The set of books of every state, (M,)."""
        states = np.arange(self.states)
        digits = [states // self.classes**place % self.classes for place in range(self.memory)]  # the newest first
        total: NDArray[np.int64] = np.asarray(self.weights) @ np.stack(digits)
        return total % self.sets

    def sets_of(self, group: Ints, indices: Ints, codes: int) -> NDArray[np.int64]:
        """The set of every token whose codes before it are given: group (B,), indices (B, n) of K -> (B, n + 1)."""
        powers = self.classes ** np.arange(self.memory - 1, -1, -1)
        start = np.asarray(group, np.int64)[:, None] // powers % self.classes  # (B, D), the oldest first
        digits = np.concatenate([start, np.asarray(indices, np.int64) // (codes // self.classes)], 1)  # (B, D + n)
        count = digits.shape[1] - self.memory + 1
        total = np.zeros((len(digits), count), np.int64)
        for place, weight in enumerate(reversed(self.weights)):
            total += weight * digits[:, place : place + count]
        return total % self.sets


def costs(least: Floats, register: Register) -> Floats:
    """What is left to pay from every state before every token.

    Args:
        least: (T, B, sets, V) float32; the least distance of a token to a codeword of a set and class.

    Returns:
        (T + 1, B, M) float32; the last row is zero.
    """
    tokens, batch = least.shape[:2]
    classes, rest, of = register.classes, register.rest, register.set_of_states()
    left = np.zeros((tokens + 1, batch, register.states), np.float32)
    for token in range(tokens - 1, -1, -1):
        steps = least[token][:, of].reshape(batch, classes, rest, classes)  # oldest digit, others, class
        (steps + left[token + 1].reshape(batch, 1, rest, classes)).min(3, out=left[token].reshape(batch, classes, rest))
    return left


def trace(least: Floats, left: Floats, group: Ints, register: Register) -> tuple[NDArray[np.int64], ...]:
    """Sets and classes (B, T) of the cheapest path from the states `group` (B,); of equal ones the lowest classes.

    Args:
        least: as of `costs`; left: its result.
    """
    classes, rest, of = register.classes, register.rest, register.set_of_states()
    rows, state = np.arange(len(group)), np.asarray(group, np.int64)
    found = []
    for step, ahead in zip(least, left[1:], strict=True):
        chosen, others = of[state], state % rest
        total = step[rows, chosen] + ahead.reshape(len(rows), rest, classes)[rows, others]  # (B, V)
        newest = total.argmin(1)
        found.append((chosen, newest))
        state = others * classes + newest
    chosen, newest = (np.stack(column, 1) for column in zip(*found, strict=True))
    return chosen, newest


def select(table: Floats, register: Register, group: Ints | None = None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The cheapest group and codes; of equal ones the lowest group, then the lowest codes from the first token on.

    Args:
        table: (sets, B, T, K) float32, distances to all codewords of all sets.
        group: (B,); None = the best.

    Returns:
        group (B,) int32 and indices (B, T) int32.
    """
    sets, batch, tokens, codes = table.shape
    parts = table.reshape(sets, batch, tokens, register.classes, -1)
    least = parts.min(4).transpose(2, 1, 0, 3)  # (T, B, sets, V)
    left = costs(least, register)
    group = left[0].argmin(1) if group is None else group
    chosen, newest = trace(least, left, group, register)
    rows, places = np.arange(batch)[:, None], np.arange(tokens)
    inside = parts[chosen, rows, places, newest].argmin(2)  # (B, T)
    return np.asarray(group, np.int32), (newest * (codes // register.classes) + inside).astype(np.int32)
