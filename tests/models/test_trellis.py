"""Walks through sets of books against trying every one of them, in float64."""

from __future__ import annotations

from itertools import pairwise, product

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
from stcq.training.lloyd import fit_independent
from stcq.training.trellis import fit_trellis


def walk(group: int, codes: list[int], sets: int, memory: int, size: int) -> list[int]:
    """The sets of a walk, by its definition: a register of the last `memory` classes, summed modulo `sets`."""
    register = [group // sets**digit % sets for digit in reversed(range(memory))]  # the oldest first
    found = []
    for code in codes:
        found.append(sum(register) % sets)
        register = [*register[1:], code // size]
    return found


Walk = tuple[float, int, list[int]]


def brute_force(latent: np.ndarray, books: np.ndarray, memory: int, start: int | None = None) -> Walk:
    """The least error of all walks, the group and the codes: the lowest of equal ones."""
    sets, tokens, codes, _ = books.shape
    table = np.square(latent[None, :, None].astype(np.float64) - books).sum(-1)  # (V, T, K)
    groups = range(sets**memory) if start is None else [start]
    places = np.arange(tokens)
    costs = []
    for group, *row in product(groups, *([range(codes)] * tokens)):
        sets_of = walk(group, row, sets, memory, codes // sets)
        costs.append((float(table[sets_of, places, row].sum()), group, row))
    return min(costs)


@settings(max_examples=25)
@given(
    st.sampled_from([(2, 1, 4, 3), (2, 2, 2, 4), (2, 3, 2, 5), (3, 1, 3, 3), (3, 2, 3, 3), (1, 2, 3, 3)]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_the_cheapest_of_all_walks(sizes: tuple[int, ...], seed: int, integers: bool) -> None:
    """Small whole numbers make ties, which go to the lowest group and then the lowest codes everywhere."""
    sets, memory, codes, tokens = sizes
    rng = np.random.default_rng(seed)
    draw = (lambda *s: rng.integers(-2, 3, s)) if integers else (lambda *s: rng.standard_normal(s))
    weight, latents = (draw(*s).astype(np.float32) for s in ((sets, tokens, codes, 2), (3, tokens, 2)))
    groups = sets**memory
    books = SwitchableCodebooks(groups, tokens, codes, 2, weight=torch.from_numpy(weight), memory=memory)
    switching = Switching(groups, tokens, memory=memory, codes=codes)
    start = rng.integers(0, groups, 3)
    group, indices = (found.numpy() for found in books.select(torch.from_numpy(latents)))
    plain = select(latents, weight, switching)
    inside = select_in(latents, start, weight, switching)
    quantized = books(torch.from_numpy(latents))
    for face, latent in enumerate(latents):
        error, wanted, row = brute_force(latent, weight, memory)
        assert (group[face], indices[face].tolist()) == (wanted, row)
        assert (plain[0][face], plain[1][face].tolist()) == (wanted, row)
        assert float(quantized.error[face].detach()) == pytest.approx(error, rel=1e-4, abs=1e-5)
        assert inside[face].tolist() == brute_force(latent, weight, memory, int(start[face]))[2]
        sets_of = walk(wanted, row, sets, memory, codes // sets)
        assert switching.expand(group, indices)[face].tolist() == sets_of
        assert books.expand(*(torch.from_numpy(a.astype(np.int64)) for a in (group, indices)))[face].tolist() == sets_of
    given = books.select_in(torch.from_numpy(latents), torch.from_numpy(start))
    assert np.array_equal(given.numpy(), inside)
    errors = books.all_errors(books.distances(torch.from_numpy(latents))).detach()
    assert np.array_equal(errors.argmin(1), group)


@pytest.mark.parametrize(
    ("sets", "memory", "tokens"), [(4, 4, 8), (16, 2, 6), (4, 4, 7), (4, 1, 6), (2, 5, 6), (1, 1, 2), (3, 2, 1)]
)
def test_what_is_traced_walks_as_what_is_not(sets: int, memory: int, tokens: int) -> None:
    """Even and odd numbers of tokens: two of them are one step of the graph where that fits."""
    torch.manual_seed(1)
    least = torch.rand(tokens, 5, sets, sets)
    one = Trellis(sets, memory)
    left = one.costs(least)
    group = left[0].argmin(1)
    for a, b in zip((group, *one.walk(least, left, group)), one.search(least), strict=True):
        assert torch.equal(a, b)
    assert np.allclose(trellis.costs(least.numpy(), sets, memory), torch.stack(left), atol=1e-5)


def test_the_first_sets_are_known_from_the_first_codes() -> None:
    """What an entropy decoder has to go by."""
    rng = np.random.default_rng(0)
    group, indices = rng.integers(0, 64, 9), rng.integers(0, 16, (9, 12))
    switching = Switching(64, 12, memory=3, codes=16)
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
    walked = fit_trellis(latents, 256, 4, 16, 8, generator, lambda iteration, error: seen.append(error))
    assert all(b <= a * 1.001 for a, b in pairwise(seen))
    books = SwitchableCodebooks(256, 16, 16, 2, weight=walked, memory=4)
    single = SwitchableCodebooks(4, 16, 16, 2, weight=apart)
    with torch.no_grad():
        error, before = (float(codec(others).error.mean()) for codec in (books, single))
    assert error < 0.92 * before
