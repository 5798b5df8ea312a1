"""Fitting the books of a codec with a memory (runtime/trellis.py): Lloyd's iteration over walks, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.codebooks import SwitchableCodebooks
from ..runtime.switching import Switching
from .lloyd import GPU_CHUNK, SEEDS, fit_independent, refit

WALKS = 2**23  # distances at a time where a face walks through all of them
START = 4  # iterations of the independent sets that a trellis starts from
KEPT = 0.85  # of the sums of the iterations before, where each has some latents only


def fit_trellis(
    latents: Tensor,
    switching: Switching,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda iteration, error: None,
    shuffle: int = 0,
    turn: float = 0.0,
) -> Tensor:
    """Books (V, T, K, d) that groups walk, of latents (N, T, d).

    Starts from V independent sets, fitted to every fourth latent; then finds every latent's cheapest walk and moves all
    codewords to the means of their latents, `iterations` times. The error rises by the repair of empty codes only.

    With `shuffle` an iteration takes so many faces, each token of them from another latent, and the codewords move to
    means over the iterations, of which older ones count less: walks meet ever new neighbours, so the books
    overfit less, and an iteration takes less time. That is right where tokens are uncorrelated, as of `eigen`.

    Args:
        progress: called with (iteration, mean squared error per token before its move).
        shuffle: faces of an iteration; 0 = all latents as they are.
        turn: most radians by which each token of a shuffled face turns towards that of another one.
    """
    count, tokens, dim = latents.shape
    sets, codes = switching.sets, switching.codes
    few = latents[:: min(4, max(1, count // (SEEDS * codes)))]
    weight = fit_independent(few, sets, codes, START, generator)
    books = SwitchableCodebooks(switching, dim, weight=weight).to(latents.device)
    counts, sums = latents.new_zeros(tokens * sets * codes), latents.new_zeros(tokens * sets * codes, dim)
    for iteration in range(iterations):
        faces = mixed(latents, shuffle, turn, generator) if shuffle else latents
        places, errors = walks(faces, books)
        progress(iteration, float(errors.mean()))
        together = books.weight.detach().transpose(0, 1).flatten(1, 2)  # (T, V * K, d)
        if shuffle:
            cells = (torch.arange(tokens, device=latents.device) * sets * codes + places).flatten()  # (n * T,)
            counts = KEPT * counts + torch.bincount(cells, minlength=len(counts))
            sums = (KEPT * sums).index_add_(0, cells, faces.flatten(0, 1))
            means = sums / counts.clamp_min(1e-12)[:, None]
            moved = torch.where(counts[:, None] > 0, means, together.flatten(0, 1)).reshape(together.shape)
        else:
            moved = refit(latents, together, places, errors)
        books.weight.data = moved.reshape(tokens, sets, codes, dim).transpose(0, 1).contiguous()
    return books.weight.detach()


def mixed(latents: Tensor, count: int, turn: float, generator: torch.Generator) -> Tensor:
    """Up to `count` faces, each token of which is from another one of the latents (N, T, d).

    With `turn`, that token z is turned towards a second one z' around their mean, cos(a) z + sin(a) z' with a drawn
    from 0 to `turn` radians, which leaves mean and covariance as they are: more faces than there are.
    """
    found = _tokens(latents, count, generator)
    if turn:
        mean = latents.mean(0)  # (T, d)
        angle = turn * torch.rand(found.shape[:2], generator=generator, device=latents.device)[..., None]
        others = _tokens(latents, count, generator)
        found = mean + angle.cos() * (found - mean) + angle.sin() * (others - mean)
    return found


def _tokens(latents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Tokens of up to `count` latents, of each token's own order of them."""
    tokens = latents.shape[1]
    picks = [torch.randperm(len(latents), generator=generator, device=latents.device)[:count] for _ in range(tokens)]
    return latents[torch.stack(picks, 1), torch.arange(tokens, device=latents.device)]


@torch.no_grad()
def walks(latents: Tensor, books: SwitchableCodebooks) -> tuple[Tensor, Tensor]:
    """The codewords set * K + index (N, T) of the cheapest walks of latents (N, T, d), and squared errors (N, T)."""
    chunk = WALKS if latents.device.type == "cpu" else GPU_CHUNK
    places, errors = [], []
    for part in torch.split(latents, max(1, chunk // books.weight[..., 0].numel())):
        group, indices = books.select(part)
        places.append(books.expand(group, indices) * books.codes + indices)
        errors.append((books.lookup(group, indices) - part).square().sum(2))
    return torch.cat(places), torch.cat(errors)
