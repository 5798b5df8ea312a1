"""Trellis switching: the codes of the last tokens pick the next token's set of books (docs/bitstream.md).

Trellis coded vector quantization (Fischer, Marcellin, Wang 1991) in the form of a shift register (Mao, Gray 2010). The
state before a token is the classes of the D tokens before it, a number in base V whose lowest digit is the newest; its
digits' sum modulo V is the token's set of books. A set's K codewords make V classes of K / V in a row, and the class of
the chosen one becomes the newest digit: state' = (V state + class) mod M. The group is the state before the first
token, so M = V^D.

As any codeword but those of one class leads to other sets for D tokens, the least error of a face is a shortest path,
found by dynamic programming (Viterbi 1967) from the last token backwards: `costs` has what the rest of a face costs
from every state, and `trace` follows the least of it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.signedinteger[Any]]


def set_of_states(sets: int, memory: int) -> NDArray[np.int64]:
    """The set of books of every state, (M,): the sum of its digits modulo V."""
    states = np.arange(sets**memory)
    total: NDArray[np.int64] = sum(states // sets**digit for digit in range(memory)) % sets
    return total


def sets_of(group: Ints, indices: Ints, sets: int, memory: int, codes: int) -> NDArray[np.int64]:
    """The set of books of every token whose codes before it are given: group (B,), indices (B, n) -> (B, n + 1)."""
    start = np.asarray(group, np.int64)[:, None] // sets ** np.arange(memory - 1, -1, -1) % sets  # (B, D)
    classes = np.asarray(indices, np.int64) // (codes // sets)  # (B, n)
    total = np.cumsum(np.concatenate([np.zeros_like(start[:, :1]), start, classes], 1), 1)  # (B, 1 + D + n)
    found: NDArray[np.int64] = (total[:, memory:] - total[:, :-memory]) % sets
    return found


def costs(least: Floats, sets: int, memory: int) -> Floats:
    """What is left to pay from every state before every token.

    Args:
        least: (T, B, V, V) float32; the least distance of a token to a codeword of a set (axis 2) and class (axis 3).

    Returns:
        (T + 1, B, M) float32; the last row is zero.
    """
    tokens, batch = least.shape[:2]
    rest, of = sets ** (memory - 1), set_of_states(sets, memory)
    left = np.zeros((tokens + 1, batch, sets * rest), np.float32)
    for token in range(tokens - 1, -1, -1):
        steps = least[token][:, of].reshape(batch, sets, rest, sets)  # oldest digit, others, class
        (steps + left[token + 1].reshape(batch, 1, rest, sets)).min(3, out=left[token].reshape(batch, sets, rest))
    return left


def trace(least: Floats, left: Floats, group: Ints, sets: int, memory: int) -> tuple[NDArray[np.int64], ...]:
    """Sets and classes (B, T) of the cheapest path from the states `group` (B,); of equal ones the lowest classes.

    Args:
        least: as of `costs`; left: its result.
    """
    rest, of = sets ** (memory - 1), set_of_states(sets, memory)
    rows, state = np.arange(len(group)), np.asarray(group, np.int64)
    found = []
    for step, ahead in zip(least, left[1:], strict=True):
        chosen, others = of[state], state % rest
        total = step[rows, chosen] + ahead.reshape(len(rows), rest, sets)[rows, others]  # (B, V)
        newest = total.argmin(1)
        found.append((chosen, newest))
        state = others * sets + newest
    chosen, newest = (np.stack(column, 1) for column in zip(*found, strict=True))
    return chosen, newest


def select(table: Floats, memory: int, group: Ints | None = None) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The cheapest group and codes; of equal ones the lowest group, then the lowest codes from the first token on.

    Args:
        table: (V, B, T, K) float32, distances to all codewords of all sets.
        memory: D.
        group: (B,); None = the best.

    Returns:
        group (B,) int32 and indices (B, T) int32.
    """
    sets, batch, tokens, codes = table.shape
    parts = table.reshape(sets, batch, tokens, sets, codes // sets)
    least = parts.min(4).transpose(2, 1, 0, 3)  # (T, B, V, V)
    left = costs(least, sets, memory)
    group = left[0].argmin(1) if group is None else group
    chosen, newest = trace(least, left, group, sets, memory)
    rows, places = np.arange(batch)[:, None], np.arange(tokens)
    inside = parts[chosen, rows, places, newest].argmin(2)  # (B, T)
    return np.asarray(group, np.int32), (newest * (codes // sets) + inside).astype(np.int32)
