"""Fitting the books of a codec with a memory (runtime/trellis.py): Lloyd's iteration over walks, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.codebooks import SwitchableCodebooks
from .lloyd import GPU_CHUNK, SEEDS, fit_independent, refit

WALKS = 2**23  # distances at a time where a face walks through all of them
START = 4  # iterations of the independent sets that a trellis starts from


def fit_trellis(
    latents: Tensor,
    groups: int,
    memory: int,
    codes: int,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda iteration, error: None,
) -> Tensor:
    """Books (V, T, K, d) that groups (M = V^D) walk with a memory of D tokens, of latents (N, T, d).

    Starts from V independent sets, fitted to every fourth latent; then finds every latent's cheapest walk and moves all
    codewords to the means of their latents, `iterations` times. The error rises by the repair of empty codes only.

    Args:
        progress: called with (iteration, mean squared error per token before its move).
    """
    count, tokens, dim = latents.shape
    sets = round(groups ** (1 / memory))
    few = latents[:: min(4, max(1, count // (SEEDS * codes)))]
    weight = fit_independent(few, sets, codes, START, generator)
    books = SwitchableCodebooks(groups, tokens, codes, dim, weight=weight, memory=memory).to(latents.device)
    chunk = WALKS if latents.device.type == "cpu" else GPU_CHUNK
    for iteration in range(iterations):
        places, errors = [], []
        for part in torch.split(latents, max(1, chunk // (sets * tokens * codes))):
            with torch.no_grad():
                group, indices = books.select(part)
                places.append(books.expand(group, indices) * codes + indices)
                errors.append((books.lookup(group, indices) - part).square().sum(2))
        worst = torch.cat(errors)  # (N, T)
        together = books.weight.detach().transpose(0, 1).flatten(1, 2)  # (T, V * K, d)
        moved = refit(latents, together, torch.cat(places), worst)
        books.weight.data = moved.reshape(tokens, sets, codes, dim).transpose(0, 1).contiguous()
        progress(iteration, float(worst.mean()))
    return books.weight.detach()
