"""Moving codewords to new latents with numpy alone: Lloyd steps with a prior, encoder and decoder fixed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ..runtime.search import select
from ..runtime.switching import Switching

Floats = NDArray[np.float32]
STEPS = 8
PRIOR = 8.0
ROWS = 64  # latents at a time: their distances to all groups' codewords are held


def quantisation_error(latents: Floats, books: Floats, switching: Switching | None = None) -> float:
    """Mean squared error per number of latents (N, T, d) after exact selection from books (V, T, K, d)."""
    switching, total = switching or Switching(*books.shape[:2]), 0.0
    for start in range(0, len(latents), ROWS):
        rows = latents[start : start + ROWS]
        codes = lookup(books, *select(rows, books, switching), switching)
        total += float(np.square(rows - codes, dtype=np.float64).sum())
    return total / latents.size


def lookup(
    books: Floats, group: NDArray[np.int32], indices: NDArray[np.int32], switching: Switching | None = None
) -> Floats:
    """Codewords (B, T, d) of group (B,) and indices (B, T)."""
    switching = switching or Switching(*books.shape[:2])
    codes: Floats = books[switching.expand(group, indices), np.arange(books.shape[1]), indices]
    return codes


def refit_books(
    latents: Floats,
    books: Floats,
    switching: Switching | None = None,
    *,
    shared: bool = False,
    prior: float = PRIOR,
    steps: int = STEPS,
    progress: Callable[[int, float], None] = lambda step, error: None,
) -> Floats:
    """Books (V, T, K, d) moved towards latents (N, T, d).

    Each step selects group and codes exactly, then moves every codeword to the mean of its latents, where the
    codeword as it came counts as `prior` latents more (the maximum a posteriori mean): a codeword without latents
    stays. The error on these latents plus the prior's pull never rises.

    Args:
        latents: (N, T, d) float32.
        books: (V, T, K, d) float32.
        switching: how the V sets are picked; None = each has its own.
        shared: all tokens have the same books: they are moved together.
        prior: latents' worth of the codewords as they came.
        steps: how many.
        progress: called with (step, mean squared error before it).
    """
    sets, tokens, codes, _ = books.shape
    switching = switching or Switching(sets, tokens)
    start = np.array(books, np.float64)
    moved = books
    places = np.zeros((1, tokens), np.int64) if shared else np.arange(tokens)[None]
    for step in range(steps):
        sums, counts = np.zeros_like(start[:, : 1 if shared else tokens]), np.zeros((sets, tokens, codes))
        counts = counts[:, : 1 if shared else tokens]
        error = 0.0
        for first in range(0, len(latents), ROWS):
            rows = latents[first : first + ROWS]
            group, indices = select(rows, moved, switching)
            error += float(np.square(rows - lookup(moved, group, indices, switching), dtype=np.float64).sum())
            where = (switching.expand(group, indices), places, indices)
            np.add.at(sums, where, rows)
            np.add.at(counts, where, 1)
        progress(step, error / latents.size)
        means = (sums + prior * start[:, : sums.shape[1]]) / (counts + prior)[..., None]
        moved = np.broadcast_to(means.astype(np.float32), books.shape)
    return moved
