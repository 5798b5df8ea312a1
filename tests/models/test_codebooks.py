"""Switchable codebooks against the definition, computed slowly in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stcq.models.codebooks import SwitchableCodebooks
from stcq.runtime.search import distances, select, select_in
from stcq.runtime.switching import Switching


def brute_force(latents: np.ndarray, books: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wang et al. 2025: m* = argmin_m sum_t min_k ||z_t - C[m, t, k]||^2, in float64."""
    difference = latents[:, None, :, None].astype(np.float64) - books[None].astype(np.float64)  # (B, M, T, K, d)
    table = np.square(difference).sum(-1)  # (B, M, T, K)
    group = table.min(3).sum(2).argmin(1)
    return group, table[np.arange(len(group)), group].argmin(2)


shapes = st.tuples(*(st.integers(1, limit) for limit in (4, 6, 9, 12, 5)))  # B, M, T, K, d


@settings(max_examples=60)
@given(shapes, st.integers(0, 2**32), st.booleans())
def test_selection_is_exact(shape: tuple[int, ...], seed: int, integers: bool) -> None:
    """Small whole numbers make ties, which go to the lowest index everywhere."""
    batch, groups, tokens, codes, dim = shape
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-2, 3, s)) if integers else (lambda *s: rng.standard_normal(s))
    books = SwitchableCodebooks(Switching(groups, tokens, codes=codes), dim)
    books.weight.data = torch.tensor(draw(groups, tokens, codes, dim), dtype=torch.float32)
    latents = torch.tensor(draw(batch, tokens, dim), dtype=torch.float32)
    wanted = brute_force(latents.numpy(), books.weight.detach().numpy())
    found = books.select(latents)
    numpy_found = select(latents.numpy(), books.weight.detach().numpy())
    for a, b, c in zip(wanted, found, numpy_found, strict=True):
        assert np.array_equal(a, b.numpy())
        assert np.array_equal(a, c)
    inside = select_in(latents.numpy(), numpy_found[0], books.weight.detach().numpy())
    assert np.array_equal(inside, wanted[1])
    assert np.array_equal(books.select_in(latents, found[0]).numpy(), wanted[1])


@settings(max_examples=40)
@given(shapes, st.integers(1, 3), st.integers(1, 3), st.integers(0, 2**32), st.booleans())
def test_switches_search_all_their_groups(
    shape: tuple[int, ...], switches: int, sets: int, seed: int, integers: bool
) -> None:
    """The same answer, ties included, as with all V^S groups' books written out."""
    batch, _, run, codes, dim = shape
    tokens, groups = switches * (run % 3 + 1), sets**switches
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-2, 3, s)) if integers else (lambda *s: rng.standard_normal(s))
    weight = torch.tensor(draw(sets, tokens, codes, dim), dtype=torch.float32)
    switching = Switching(groups, tokens, switches, codes=codes)
    books = SwitchableCodebooks(switching, dim, weight=weight)
    whole = np.stack([switching.books(weight.numpy(), group) for group in range(groups)])  # (M, T, K, d)
    latents = torch.tensor(draw(batch, tokens, dim), dtype=torch.float32)
    wanted = brute_force(latents.numpy(), whole)
    found, plain = books.select(latents), select(latents.numpy(), weight.numpy(), switching)
    for a, b, c in zip(wanted, found, plain, strict=True):
        assert np.array_equal(a, b.numpy())
        assert np.array_equal(a, c)
    assert np.array_equal(books.select_in(latents, found[0]).numpy(), wanted[1])
    assert np.array_equal(select_in(latents.numpy(), plain[0], weight.numpy(), switching), wanted[1])
    codes_of = whole[wanted[0][:, None], np.arange(tokens), wanted[1]]
    assert np.array_equal(books.lookup(*found).detach().numpy(), codes_of)
    runs = (latents[:, None, :, None] - weight).square().sum(-1).amin(3).unflatten(2, (switches, -1)).sum(3)
    least = books.group_errors(runs).amin(1)
    assert torch.allclose(least, torch.tensor(np.square(latents.numpy() - codes_of).sum((1, 2))), rtol=1e-4, atol=1e-5)
    if integers:  # exact sums, so that ties are ties
        assert torch.equal(books.group_errors(runs).argmin(1), found[0])


def test_distances_are_squared_distances_less_the_latents_norm() -> None:
    books = SwitchableCodebooks(Switching(2, 3, codes=4), 5)
    latents = torch.randn(6, 3, 5)
    wanted = (latents[:, None, :, None] - books.weight).square().sum(-1) - latents.square().sum(-1)[:, None, :, None]
    assert torch.allclose(books.distances(latents), wanted, atol=1e-5)
    assert np.allclose(distances(latents.numpy(), books.weight.detach().numpy()[1]), wanted[:, 1].detach(), atol=1e-5)


def test_gradients_pass_straight_through_and_reach_the_books() -> None:
    books = SwitchableCodebooks(Switching(2, 3, codes=4), 5)
    latents = torch.randn(6, 3, 5, requires_grad=True)
    quantized = books(latents)
    assert torch.allclose(quantized.codes, books.lookup(quantized.group, quantized.indices), atol=1e-6)
    pull = torch.randn(6, 3, 5)
    (quantized.codes * pull).sum().backward()
    assert torch.equal(latents.grad, pull)
    assert books.weight.grad is None
    books(latents.detach()).error.sum().backward()
    assert books.weight.grad.abs().sum() > 0


def test_error_is_the_distance_of_the_chosen_group() -> None:
    books = SwitchableCodebooks(Switching(3, 4, codes=5), 2)
    latents = torch.randn(7, 4, 2)
    everything = (latents[:, None, :, None] - books.weight).square().sum(-1).amin(3).sum(2)  # (B, M)
    assert torch.allclose(books(latents).error, everything.amin(1), rtol=1e-5)
    given_group = torch.full((7,), 2)
    assert torch.allclose(books(latents, given_group).error, everything[:, 2], rtol=1e-5)


def test_shared_books_are_one_book_for_all_tokens() -> None:
    books = SwitchableCodebooks(Switching(2, 6, codes=4), 3, shared=True)
    assert books.weight.shape == (2, 1, 4, 3)
    assert books.full().shape == (2, 6, 4, 3)
    latents = torch.randn(1, 1, 3).expand(1, 6, 3)
    assert len(set(books(latents).indices[0].tolist())) == 1


@pytest.mark.parametrize(("groups", "tokens", "codes"), [(1, 1, 1), (1, 5, 7), (4, 1, 3), (3, 2, 1)])
def test_degenerate_sizes(groups: int, tokens: int, codes: int) -> None:
    quantized = SwitchableCodebooks(Switching(groups, tokens, codes=codes), 2)(torch.randn(3, tokens, 2))
    assert quantized.group.shape == (3,)
    assert quantized.indices.shape == (3, tokens)
    assert (quantized.indices < codes).all()
