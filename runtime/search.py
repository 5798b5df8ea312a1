"""Group selection and quantisation with numpy on the memory-mapped codebooks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import trellis
from .switching import Switching

Floats = NDArray[np.float32]
Ints = NDArray[np.signedinteger[Any]]


def distances(latents: Floats, books: Floats) -> Floats:
    """||c||^2 - 2 z.c of latents (B, T, d) to every codeword of books (T, K, d): (B, T, K) float32."""
    norms = np.einsum("tkd,tkd->tk", books, books)  # (T, K)
    dots = np.matmul(latents[:, :, None], books.transpose(0, 2, 1))[:, :, 0]  # (B, T, K)
    table: Floats = norms - 2 * dots
    return table


def select(
    latents: Floats, codebooks: Floats, switching: Switching | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Exact selection: m* = argmin_m sum_t min_k ||z_t - C[m, t, k]||^2, ties to the lowest index.

    With a memory the least sum over all walks, ties to the lowest group, then the lowest codes from the first token on.

    Args:
        latents: (B, T, d) float32.
        codebooks: (V, T, K, d) float32.
        switching: how groups pick their books; None = every group has a set of its own.

    Returns:
        group (B,) int32 and indices (B, T) int32.
    """
    switching = switching or Switching(*codebooks.shape[:2])
    if switching.memory:
        return trellis.select(np.stack([distances(latents, books) for books in codebooks]), switching.register)
    errors, indices = [], []
    for books in codebooks:
        table = distances(latents, books)
        errors.append(table.min(2))
        indices.append(table.argmin(2))
    group = switching.choose(np.stack(errors))  # (B,)
    rows, tokens = np.arange(len(latents))[:, None], np.arange(codebooks.shape[1])
    return group.astype(np.int32), np.stack(indices)[switching.expand(group), rows, tokens].astype(np.int32)


def select_in(latents: Floats, group: Ints, codebooks: Floats, switching: Switching | None = None) -> NDArray[np.int32]:
    """Indices (B, T) int32 of latents (B, T, d) inside given groups (B,); reads only those groups' books.

    With a memory, whose walks go through all books, those of the cheapest walk from there.
    """
    switching = switching or Switching(*codebooks.shape[:2])
    if switching.memory:
        table = np.stack([distances(latents, books) for books in codebooks])
        return trellis.select(table, switching.register, group)[1]
    faces = zip(latents, group, strict=True)
    rows = [distances(z[None], switching.books(codebooks, m)).argmin(2)[0] for z, m in faces]
    return np.array(rows, np.int32).reshape(len(latents), -1)
