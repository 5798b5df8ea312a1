"""Fitting the books of a codec with a memory (runtime/trellis.py): Lloyd's iteration over walks, without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.codebooks import SwitchableCodebooks
from ..runtime.switching import Switching
from .ema import BookAverage
from .lloyd import GPU_CHUNK, SEEDS, Keep, State, fit_independent, keep_nothing, refit

WALKS = 2**23  # distances at a time where a face walks through all of them
START = 4  # iterations of the independent sets that a trellis starts from
KEPT = 0.85  # of the moving averages an iteration, where each has some latents only


def fit_trellis(
    latents: Tensor,
    switching: Switching,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda iteration, error: None,
    shuffle: int = 0,
    turn: float = 0.0,
    kept: tuple[int, State] | None = None,
    keep: Keep = keep_nothing,
) -> Tensor:
    """Books (V, T, K, d) that groups walk, of latents (N, T, d).

    Starts from V independent sets, fitted to every fourth latent; then finds every latent's cheapest walk and moves all
    codewords to the means of their latents, `iterations` times. The error rises by the repair of empty codes only.

    With `shuffle` an iteration takes so many faces, each token of them from another latent, and the codewords are
    moving averages (training/ema.py): walks meet ever new neighbours, so the books overfit less, and an iteration takes
    less time. That is right where tokens are uncorrelated, as of `eigen`.

    Args:
        progress: called with (iteration, mean squared error per token before its move).
        shuffle: faces of an iteration; 0 = all latents as they are.
        turn: most radians by which each token of a shuffled face turns towards that of another one.
        kept: iterations that are done and the state then, to go on from.
        keep: called with both after each iteration.
    """
    count, tokens, dim = latents.shape
    sets, codes = switching.sets, switching.codes
    first, state = kept or (0, {})
    few = latents[:: min(4, max(1, count // (SEEDS * codes)))]
    weight = state["books"] if state else fit_independent(few, sets, codes, START, generator)
    books = SwitchableCodebooks(switching, dim, weight=weight).to(latents.device)
    average = BookAverage(books, KEPT)
    if state:
        average.counts.copy_(state["counts"])
        average.sums.copy_(state["sums"])
        generator.set_state(state["generator"])
    for iteration in range(first, iterations):
        faces = mixed(latents, shuffle, turn, generator) if shuffle else latents
        group, indices, errors = walks(faces, books)
        progress(iteration, float(errors.mean()))
        if shuffle:
            average.update(faces, group, indices, generator)
        else:
            together = books.weight.detach().transpose(0, 1).flatten(1, 2)  # (T, V * K, d)
            moved = refit(latents, together, books.expand(group, indices) * codes + indices, errors)
            books.weight.data = moved.reshape(tokens, sets, codes, dim).transpose(0, 1).contiguous()
        now = {"books": books.weight.detach(), "counts": average.counts, "sums": average.sums}
        keep(iteration + 1, now | {"generator": generator.get_state()})
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
def walks(latents: Tensor, books: SwitchableCodebooks) -> tuple[Tensor, Tensor, Tensor]:
    """Group (N,), indices (N, T) and squared errors (N, T) of the cheapest walks of latents (N, T, d)."""
    chunk = WALKS if latents.device.type == "cpu" else GPU_CHUNK
    found = []
    for part in torch.split(latents, max(1, chunk // books.weight[..., 0].numel())):
        group, indices = books.select(part)
        found.append((group, indices, (books.lookup(group, indices) - part).square().sum(2)))
    group, indices, errors = (torch.cat(column) for column in zip(*found, strict=True))
    return group, indices, errors
