"""Lloyd's iteration: the error falls, structure is found, empty codewords are repaired."""

from __future__ import annotations

import pytest
import torch
from stcq.models.codebooks import SwitchableCodebooks
from stcq.runtime.switching import Switching
from stcq.training.ema import BookAverage
from stcq.training.lloyd import fit_books, fit_groups, fit_independent, group_errors, nearest, refit


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_nearest_is_brute_force(generator: torch.Generator) -> None:
    latents, books = torch.randn(50, 3, 4, generator=generator), torch.randn(3, 7, 4, generator=generator)
    table = (latents[:, :, None] - books).square().sum(-1)
    indices, errors = nearest(latents, books)
    assert torch.equal(indices, table.argmin(2))
    assert torch.allclose(errors, table.amin(2), atol=1e-5)


def test_every_refit_lowers_the_error(generator: torch.Generator) -> None:
    latents = torch.randn(400, 3, 4, generator=generator)
    books = fit_books(latents, 8, 0, generator)
    errors = []
    for _ in range(6):
        indices, distance = nearest(latents, books)
        errors.append(float(distance.mean()))
        books = refit(latents, books, indices, distance)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.9 * errors[0]


def test_separate_clusters_are_found_exactly(generator: torch.Generator) -> None:
    centres = torch.arange(5.0)[:, None] * 100 + torch.arange(3.0)
    latents = centres[torch.arange(200) % 5][:, None] + torch.randn(200, 1, 3, generator=generator)
    found = fit_books(latents, 5, 5, generator)[0]
    assert torch.allclose(found[found[:, 0].argsort()], centres, atol=1)


def test_two_kinds_of_pictures_get_two_groups(generator: torch.Generator) -> None:
    kind = torch.arange(300) % 2
    latents = torch.randn(300, 4, 2, generator=generator) * 0.1 + torch.where(kind == 0, -3.0, 3.0)[:, None, None]
    latents[:, 0] *= -1
    errors: list[float] = []
    books = fit_groups(latents, 2, 4, 5, generator, lambda _, error: errors.append(error))
    group, _ = _module(books).select(latents)
    assert len({tuple(pair) for pair in torch.stack([group, kind], 1).tolist()}) == 2
    assert errors[-1] <= errors[0]


@pytest.mark.parametrize("shared", [False, True])
def test_independent_groups_serve_others_better_together(generator: torch.Generator, shared: bool) -> None:
    latents, others = torch.randn(2, 3000, 8, 3, generator=generator)  # without kinds of pictures to be found
    errors: list[float] = []
    books = fit_independent(latents, 4, 16, 8, generator, lambda _, error: errors.append(error), shared=shared)
    assert books.shape == (4, 1 if shared else 8, 16, 3)
    assert errors == sorted(errors, reverse=True)
    each = group_errors(others, books)  # (N, M)
    assert each.mean(0).max() < 1.02 * each.mean(0).min()
    together = fit_groups(latents, 4, 16, 8, generator, shared=shared)
    assert each.amin(1).mean() < group_errors(others, together).amin(1).mean() < each.mean()


def test_empty_codewords_move_to_the_worst_served(generator: torch.Generator) -> None:
    latents = torch.tensor([[[0.0]], [[1.0]], [[9.0]]])
    books = torch.tensor([[[0.0], [50.0], [60.0]]])
    moved = refit(latents, books, *nearest(latents, books))
    assert {1.0, 9.0} <= {round(v, 3) for v in moved.flatten().tolist()} | {round(float(latents.mean()), 3)}
    few = refit(latents[:1], books, *nearest(latents[:1], books))
    assert torch.isfinite(few).all()


def test_moving_averages_follow_the_latents_and_revive_dead_codewords(generator: torch.Generator) -> None:
    books = SwitchableCodebooks(Switching(1, 2, codes=4), 3)
    books.weight.data += 100
    average = BookAverage(books, 0.9)
    latents = torch.randn(64, 2, 3, generator=generator)
    for _ in range(80):
        average.update(latents, *books.select(latents), generator)
    quantized = books(latents)
    assert quantized.error.mean() < 0.8 * latents.square().sum((1, 2)).mean()
    assert all(len(set(quantized.indices[:, t].tolist())) == 4 for t in range(2))


def _module(books: torch.Tensor) -> SwitchableCodebooks:
    module = SwitchableCodebooks(Switching(*books.shape[:2], codes=books.shape[2]), books.shape[3])
    module.weight.data = books
    return module


def test_shared_books_pool_all_tokens(generator: torch.Generator) -> None:
    latents = torch.randn(200, 6, 3, generator=generator)
    errors: list[float] = []
    books = fit_groups(latents, 2, 16, 4, generator, lambda _, error: errors.append(error), shared=True)
    assert books.shape == (2, 1, 16, 3)
    module = SwitchableCodebooks(Switching(2, 6, codes=16), 3, shared=True)
    module.weight.data = books
    assert module(latents).error.mean() / 6 <= errors[-1] + 1e-4
    assert errors[-1] <= errors[0]
