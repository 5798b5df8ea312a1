"""Walks through sets of books against trying every one of them, in float64."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stcq.models.codebooks import SwitchableCodebooks
from stcq.models.trellis import Trellis
from stcq.runtime import trellis
from stcq.runtime.search import select, select_in
from stcq.runtime.switching import Switching
from stcq.runtime.trellis import Register
from stcq.training.lloyd import fit_independent
from stcq.training.trellis import fit_trellis, mixed


def walk(group: int, codes: list[int], register: Register, size: int) -> list[int]:
    """The sets of a walk, by its definition: the last classes, weighted and summed modulo the number of sets."""
    classes, memory, sets, weights = register
    held = [group // classes**digit % classes for digit in range(memory)]  # the newest first
    found = []
    for code in codes:
        found.append(sum(w * c for w, c in zip(weights, held, strict=True)) % sets)
        held = [code // size, *held[:-1]]
    return found


Walk = tuple[float, int, list[int]]
# classes, memory, codes, tokens, weights
PLAIN = [(2, 1, 4, 3, ()), (2, 2, 2, 4, ()), (2, 3, 2, 5, ()), (3, 1, 3, 3, ()), (3, 2, 3, 3, ()), (1, 2, 3, 3, ())]
WEIGHTED = [(2, 3, 4, 3, (1, 2, 1)), (2, 2, 4, 4, (1, 2)), (3, 2, 3, 3, (2, 1)), (2, 3, 2, 5, (1, 3, 2))]


def brute_force(latent: np.ndarray, books: np.ndarray, register: Register, start: int | None = None) -> Walk:
    """The least error of all walks, the group and the codes: the lowest of equal ones."""
    _, tokens, codes, _ = books.shape
    table = np.square(latent[None, :, None].astype(np.float64) - books).sum(-1)  # (V, T, K)
    groups = range(register.states) if start is None else [start]
    places = np.arange(tokens)
    costs = []
    for group, *row in product(groups, *([range(codes)] * tokens)):
        sets_of = walk(group, row, register, codes // register.classes)
        costs.append((float(table[sets_of, places, row].sum()), group, row))
    return min(costs)


@settings(max_examples=25)
@given(
    st.sampled_from(PLAIN + WEIGHTED),
    st.sampled_from([0, 1, 2, 4]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_the_cheapest_of_all_walks(sizes: tuple[Any, ...], sets: int, seed: int, integers: bool) -> None:
    """Small whole numbers make ties, which go to the lowest group and then the lowest codes everywhere."""
    classes, memory, codes, tokens, weights = sizes
    groups = classes**memory
    switching = Switching(groups, tokens, 1, memory, codes, min(sets, groups), weights)
    register = switching.register
    assert register == (classes, memory, min(sets, groups) or classes, weights or (1,) * memory)
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-2, 3, s)) if integers else (lambda *s: rng.standard_normal(s))
    weight, latents = (draw(*s).astype(np.float32) for s in ((switching.sets, tokens, codes, 2), (3, tokens, 2)))
    books = SwitchableCodebooks(switching, 2, weight=torch.from_numpy(weight))
    start = rng.integers(0, groups, 3)
    group, indices = (found.numpy() for found in books.select(torch.from_numpy(latents)))
    plain = select(latents, weight, switching)
    inside = select_in(latents, start, weight, switching)
    quantized = books(torch.from_numpy(latents))
    for face, latent in enumerate(latents):
        error, wanted, row = brute_force(latent, weight, register)
        assert (group[face], indices[face].tolist()) == (wanted, row)
        assert (plain[0][face], plain[1][face].tolist()) == (wanted, row)
        assert float(quantized.error[face].detach()) == pytest.approx(error, rel=1e-4, abs=1e-5)
        assert inside[face].tolist() == brute_force(latent, weight, register, int(start[face]))[2]
        sets_of = walk(wanted, row, register, codes // classes)
        assert switching.expand(group, indices)[face].tolist() == sets_of
        assert books.expand(*(torch.from_numpy(a.astype(np.int64)) for a in (group, indices)))[face].tolist() == sets_of
    given = books.select_in(torch.from_numpy(latents), torch.from_numpy(start))
    assert np.array_equal(given.numpy(), inside)
    errors = books.all_errors(books.distances(torch.from_numpy(latents))).detach()
    assert np.array_equal(errors.argmin(1), group)


@pytest.mark.parametrize(
    ("classes", "memory", "sets", "tokens"),
    [(4, 4, 4, 8), (4, 4, 8, 8), (4, 4, 8, 7), (16, 2, 16, 6), (4, 1, 3, 6), (2, 5, 7, 6), (1, 1, 1, 2), (3, 2, 3, 1)],
)
def test_what_is_traced_walks_as_what_is_not(classes: int, memory: int, sets: int, tokens: int) -> None:
    """Even and odd numbers of tokens: two of them are one step of the graph where that fits."""
    torch.manual_seed(1)
    least = torch.rand(tokens, 5, sets, classes)
    register = Register(classes, memory, sets, (1, 2, 1, 3, 1)[:memory])
    one = Trellis(register)
    left = one.costs(least)
    group = left[0].argmin(1)
    for a, b in zip((group, *one.walk(least, left, group)), one.search(least), strict=True):
        assert torch.equal(a, b)
    assert np.allclose(trellis.costs(least.numpy(), register), torch.stack(left), atol=1e-5)


def test_the_first_sets_are_known_from_the_first_codes() -> None:
    """What an entropy decoder has to go by."""
    rng = np.random.default_rng(0)
    group, indices = rng.integers(0, 64, 9), rng.integers(0, 16, (9, 12))
    switching = Switching(64, 12, 1, 3, 16, 6, (1, 2, 3))
    whole = switching.expand(group, indices)
    with pytest.raises(ValueError, match="give the indices"):
        switching.expand(group)
    for known in range(12):
        assert np.array_equal(switching.expand(group, indices[:, :known]), whole[:, : known + 1])


def test_walks_fit_better_than_as_many_sets_apart() -> None:
    """On other latents: a memory is worth more than a choice among sets, for the same books and bits of a token."""
    generator = torch.Generator().manual_seed(2)
    latents, others = (torch.randn(n, 16, 2, generator=generator) for n in (6000, 1000))
    apart = fit_independent(latents, 4, 16, 8, generator)
    seen: list[float] = []
    memory = Switching(256, 16, memory=4, codes=16)
    walked = fit_trellis(latents, memory, 8, generator, lambda iteration, error: seen.append(error))
    assert all(b <= a * 1.001 for a, b in pairwise(seen))
    more = memory._replace(memory_sets=8, memory_weights=(1, 2, 1, 3))
    shuffled = fit_trellis(latents, more, 8, generator, shuffle=3000)
    codecs = ((Switching(4, 16, codes=16), apart), (memory, walked), (more, shuffled))
    with torch.no_grad():
        errors = [float(SwitchableCodebooks(s, 2, weight=w)(others).error.mean()) for s, w in codecs]
    assert errors[1] < 0.92 * errors[0]
    assert errors[2] < 0.98 * errors[1]


def test_shuffled_latents_are_the_tokens_own() -> None:
    latents = torch.arange(5)[:, None, None] * 10.0 + torch.arange(3)[None, :, None]
    found = mixed(latents, 4, 0.0, torch.Generator().manual_seed(0))
    assert found.shape == (4, 3, 1)
    assert torch.equal(found % 10, torch.arange(3.0).reshape(1, 3, 1).expand(4, 3, 1))
    assert all(len(set(column)) == 4 for column in found[:, :, 0].T.tolist())
    assert any(len(set((row // 10).flatten().tolist())) > 1 for row in found)


def test_turned_latents_keep_mean_and_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([[3.0, 0.5], [1.0, 2.0]])
    latents = 7 + spread * torch.randn(20000, 2, 2, generator=generator)
    found = mixed(latents, 20000, 1.2, generator)
    assert torch.allclose(found.mean(0), latents.mean(0), atol=0.08)
    assert torch.allclose(found.std(0), spread, rtol=0.05)
    assert len(torch.unique(torch.cat([found, latents])[:, 0], dim=0)) == 40000
