"""Fitting codebooks without gradients: the generalised Lloyd iteration (Linde, Buzo, Gray 1980)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

CHUNK = 2**20  # distances at a time: they stay in a CPU's caches
GPU_CHUNK = 2**27  # and here few calls matter
SEEDS = 16  # latents for each codeword of a k-means++ start
State = dict[str, Tensor]
Keep = Callable[[int, State], None]


def keep_nothing(step: int, state: State) -> None:
    """For fits that nobody resumes."""


def nearest(latents: Tensor, books: Tensor) -> tuple[Tensor, Tensor]:
    """Nearest codeword of every latent in its token's book.

    Args:
        latents: (N, T, d) float32.
        books: (T, K, d) float32.

    Returns:
        indices (N, T) int64 and squared distances (N, T).
    """
    indices, errors = [], []
    for part, distances in tables(latents, books):
        best = distances.min(2)
        indices.append(best.indices.T)
        errors.append((best.values.T + part.square().sum(-1)).clamp_min(0))
    return torch.cat(indices), torch.cat(errors)


def least(latents: Tensor, books: Tensor) -> Tensor:
    """The squared distances of `nearest` alone, (N, T): on a CPU four times faster than with the indices."""
    found = [(distances.amin(2).T + part.square().sum(-1)).clamp_min(0) for part, distances in tables(latents, books)]
    return torch.cat(found)


def tables(latents: Tensor, books: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Some latents (n, T, d) at a time, with their squared distances less |z|^2 to all codewords (T, n, K)."""
    norms, columns = books.square().sum(-1), books.transpose(1, 2).contiguous()  # (T, K), (T, d, K)
    chunk = CHUNK if latents.device.type == "cpu" else GPU_CHUNK
    step = max(1, chunk // (books.shape[0] * books.shape[1]))
    for part in torch.split(latents, step):
        yield part, torch.baddbmm(norms[:, None], part.transpose(0, 1), columns, alpha=-2)


def seed_books(latents: Tensor, codes: int, generator: torch.Generator) -> Tensor:
    """k-means++ start (Arthur and Vassilvitskii 2007) of every token's book at once: (T, K, d)."""
    count, tokens, dim = latents.shape
    by_token = latents.transpose(0, 1).contiguous()  # (T, N, d)
    powers = by_token.square().sum(-1)  # (T, N)
    books = latents.new_empty(tokens, codes, dim)
    rows = torch.arange(tokens, device=latents.device)
    pick = torch.randint(count, (tokens,), generator=generator, device=latents.device)
    closest = latents.new_full((tokens, count), torch.inf)
    for k in range(codes):
        books[:, k] = by_token[rows, pick]
        chosen = books[:, k, :, None]  # (T, d, 1)
        distances = powers - 2 * torch.bmm(by_token, chosen)[..., 0] + chosen.square().sum(1)  # (T, N)
        closest = torch.minimum(closest, distances.clamp_min(0))
        pick = torch.multinomial(closest + 1e-12, 1, generator=generator)[:, 0]
    return books


def refit(
    latents: Tensor,
    books: Tensor,
    indices: Tensor,
    errors: Tensor,
    towards: Tensor | None = None,
    prior: float = 0.0,
) -> Tensor:
    """Move every codeword to the mean of its latents; empty ones go to the worst-served latents of the token.

    With a `prior` the mean counts the codeword of `towards` (T, K, d) as so many latents more (the maximum a
    posteriori mean), and an empty one goes there.
    """
    tokens, codes, dim = books.shape
    places = (torch.arange(tokens, device=latents.device) * codes + indices).flatten()  # (N*T,)
    counts = torch.bincount(places, minlength=tokens * codes).float()
    sums = latents.new_zeros(tokens * codes, dim).index_add_(0, places, latents.flatten(0, 1))
    if towards is not None and prior > 0:
        return ((sums + prior * towards.flatten(0, 1)) / (counts + prior)[:, None]).reshape(tokens, codes, dim)
    means = (sums / counts.clamp_min(1)[:, None]).reshape(tokens, codes, dim)
    empty = counts.reshape(tokens, codes) == 0
    for token in empty.any(1).nonzero()[:, 0].tolist():
        worst = errors[:, token].topk(min(int(empty[token].sum()), len(errors))).indices
        spots = empty[token].nonzero()[: len(worst), 0]
        means[token, spots] = latents[worst, token]
        means[token, empty[token].nonzero()[len(worst) :, 0]] = books[token, empty[token]][len(worst) :]
    return means


def fit_books(
    latents: Tensor, codes: int, iterations: int, generator: torch.Generator, books: Tensor | None = None
) -> Tensor:
    """Books (T, K, d) of latents (N, T, d), from a k-means++ start unless books are given."""
    if books is None:
        books = seed_books(latents[:: max(1, len(latents) // (SEEDS * codes))], codes, generator)
    for _ in range(iterations):
        books = refit(latents, books, *nearest(latents, books))
    return books


def group_errors(latents: Tensor, books: Tensor) -> Tensor:
    """Squared error (N, M) of latents (N, T, d) in each group of books (M, T or 1, K, d), one group at a time."""
    count, tokens, dim = latents.shape
    points = latents if books.shape[1] == tokens else latents.reshape(-1, 1, dim)
    return torch.stack([least(points, group).reshape(count, tokens).sum(1) for group in books], 1)


def fit_independent(
    latents: Tensor,
    groups: int,
    codes: int,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda group, error: None,
    *,
    shared: bool = False,
    kept: tuple[int, State] | None = None,
    keep: Keep = keep_nothing,
) -> Tensor:
    """Books as `fit_groups` gives them, but each group's fitted to all latents, from a k-means++ start of its own.

    The groups are equally good on the average and err on different pictures, so the best of them serves a picture
    better than any. No group has fewer latents than another one, so none overfits.

    Args:
        progress: called with (group, mean squared error per token with the groups so far).
        kept: groups that are done and the state then, to go on from.
        keep: called with both after each group.
    """
    count, tokens, dim = latents.shape
    points = latents.reshape(-1, 1, dim) if shared else latents  # (N*T, 1, d) or (N, T, d)
    books = latents.new_zeros(groups, points.shape[1], codes, dim)
    least_so_far = latents.new_full((count,), torch.inf)
    first, state = kept or (0, {})
    if state:
        books.copy_(state["books"])
        least_so_far.copy_(state["least"])
        generator.set_state(state["generator"])
    for m in range(first, groups):
        start = points[torch.randperm(len(points), generator=generator, device=points.device)[: SEEDS * codes]]
        books[m] = fit_books(points, codes, iterations, generator, seed_books(start, codes, generator))
        least_so_far = torch.minimum(least_so_far, group_errors(latents, books[m : m + 1])[:, 0])
        progress(m, float(least_so_far.mean()) / tokens)
        keep(m + 1, {"books": books, "least": least_so_far, "generator": generator.get_state()})
    return books


def fit_groups(
    latents: Tensor,
    groups: int,
    codes: int,
    iterations: int,
    generator: torch.Generator,
    progress: Callable[[int, float], None] = lambda iteration, error: None,
    *,
    shared: bool = False,
    prior: float = 0.0,
    kept: tuple[int, State] | None = None,
    keep: Keep = keep_nothing,
) -> Tensor:
    """Switchable books (M, T, K, d), or (M, 1, K, d) when shared by the tokens, of latents (N, T, d).

    Starts from one set of books and a k-means clustering of whole images; then assigns every image to its
    least-error group and refits each group's books, `iterations` times. The error never rises but for
    the repair of empty codes.

    Args:
        progress: called with (iteration, mean squared error per token).
        shared: one book per group instead of one per (group, token).
        prior: latents' worth of pull of each group's codewords towards those of the first set of books; keeps
            small groups from overfitting.
        kept: iterations that are done and the state then, to go on from.
        keep: called with both after each iteration.
    """
    count, tokens, dim = latents.shape
    points = latents.reshape(-1, 1, dim) if shared else latents  # (N*T, 1, d) or (N, T, d)
    first, state = kept or (0, {})
    if state:
        base, books, group = (state[name].to(latents.device) for name in ("base", "books", "group"))
        generator.set_state(state["generator"])
    else:
        base = fit_books(points, codes, 6, generator)  # (1 or T, K, d)
        books = base.expand(groups, -1, -1, -1).clone()  # (M, 1 or T, K, d)
        group = torch.zeros(count, dtype=torch.int64, device=latents.device)
        if groups > 1:
            flat = latents.flatten(1)[:, None]  # (N, 1, T*d)
            group = nearest(flat, fit_books(flat, groups, 10, generator))[0][:, 0]  # (N,)
    for iteration in range(first, iterations):
        for m in range(groups):
            mine = latents[group == m].reshape(-1, *points.shape[1:])
            if len(mine):
                books[m] = refit(mine, books[m], *nearest(mine, books[m]), towards=base, prior=prior)
        errors = group_errors(latents, books)  # (N, M)
        group = errors.argmin(1)
        progress(iteration, float(errors.amin(1).mean()) / tokens)
        keep(iteration + 1, {"base": base, "books": books, "group": group, "generator": generator.get_state()})
    return books
