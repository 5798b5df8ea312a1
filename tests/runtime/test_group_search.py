"""The search over many groups against float64 brute force: any books, ties, and how much of them it reads."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stcq import Codec
from stcq.export.export import export
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.profiling.pictures import example
from stcq.profiling.stages import stages
from stcq.runtime import group_search, selection
from stcq.runtime.group_search import GroupSearch
from stcq.runtime.images import open_image

Array = np.ndarray


def brute(latents: Array, books: Array) -> tuple[list[int], list[list[int]]]:
    """Float64, differences squared, the lowest index of equals."""
    groups, indices = [], []
    for z in latents.astype(np.float64):
        tables = [np.square(z[:, None] - group).sum(2) for group in books]
        best = int(np.argmin([table.min(1).sum() for table in tables]))
        groups.append(best)
        indices.append(tables[best].argmin(1).tolist())
    return groups, indices


def books_like(
    shape: tuple[int, int, int, int], spread: float, rng: np.random.Generator, base: Array | None = None
) -> Array:
    """Groups that vary one set of books, most codewords a little and some a lot."""
    groups, tokens, codes, dim = shape
    base = rng.normal(size=(tokens, codes, dim)) if base is None else base
    sizes = spread * rng.gamma(0.3, 1.0, (groups, tokens, codes, 1))
    return (base + sizes * rng.normal(size=shape)).astype(np.float32)


@pytest.fixture(params=["numba", "numpy"])
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every test with the compiled loops and without, as where the extra `search` is not installed."""
    if request.param == "numpy":
        with mock.patch.object(group_search, "compiled", return_value=None):
            yield request.param
        return
    pytest.importorskip("numba", reason="needs the extra `search` (numba)")
    yield request.param


def check(latents: Array, books: Array) -> GroupSearch:
    search = GroupSearch(books)
    group, indices = search.select(latents)
    assert (group.dtype, indices.dtype) == (np.int32, np.int32)
    assert (group.tolist(), indices.tolist()) == brute(latents, books)
    return search


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.5, 5.0])
@pytest.mark.parametrize("shape", [(1, 3, 4, 2), (3, 8, 5, 3), (64, 16, 32, 12), (20, 4, 1, 5), (40, 6, 9, 70)])
def test_it_is_brute_force(shape: tuple[int, int, int, int], spread: float) -> None:
    rng = np.random.default_rng(7)
    books = books_like(shape, spread, rng)
    latents = rng.normal(size=(6, shape[1], shape[3])).astype(np.float32)
    latents[0] = books[-1, :, 0]  # exactly on codewords
    check(latents, books)


@pytest.mark.usefixtures("kernel")
@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 5), st.integers(1, 9), st.integers(1, 6)),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    offset=st.sampled_from([0.0, 1e3]),
    levels=st.sampled_from([2, 5, 1000]),
    whole=st.sampled_from([0.0, 0.3, 9.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_books_and_latents(
    shape: tuple[int, int, int, int], scale: float, offset: float, levels: int, whole: float, seed: int
) -> None:
    """Few levels make ties everywhere; a large offset makes float32 distances useless; read whole, by need or never."""
    rng = np.random.default_rng(seed)
    books = (scale * (rng.integers(-levels, levels, shape) / levels + offset)).astype(np.float32)
    latents = (scale * (rng.integers(-levels, levels, (2, shape[1], shape[3])) / levels + offset)).astype(np.float32)
    with mock.patch.object(group_search, "WHOLE", whole):
        search = GroupSearch(books)
    group, indices = search.select(latents)
    for z, m, row in zip(latents.astype(np.float64), group, indices, strict=True):
        tables = [np.square(z[:, None] - each).sum(2) for each in books]
        errors = np.array([table.min(1).sum() for table in tables])
        assert m == np.argmin(errors)
        assert np.array_equal(row, tables[m].argmin(1))


@pytest.mark.usefixtures("kernel")
def test_equal_groups_and_codewords_give_the_lowest() -> None:
    rng = np.random.default_rng(1)
    books = np.repeat(books_like((1, 6, 4, 3), 1.0, rng), 30, 0)
    books[:, :, 2] = books[:, :, 1]
    group, indices = GroupSearch(books).select(rng.normal(size=(5, 6, 3)).astype(np.float32))
    assert set(group.tolist()) == {0}
    assert 2 not in indices


@pytest.mark.parametrize("scale", [1e-22, 1e-12, 1e15])
def test_numbers_whose_squares_are_near_the_ends_of_float32(scale: float) -> None:
    pytest.importorskip("numba", reason="needs the extra `search` (numba)")
    rng = np.random.default_rng(5)
    books = (scale * books_like((33, 6, 20, 12), 0.2, rng)).astype(np.float32)
    check((scale * rng.normal(size=(4, 6, 12))).astype(np.float32), books)


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dim", [12, 64])
def test_it_reads_little_of_books_that_vary_little(dim: int) -> None:
    rng = np.random.default_rng(2)
    books = books_like((64, 16, 128, dim), 0.05, rng)
    search = check(rng.normal(size=(2, 16, dim)).astype(np.float32), books)
    assert search.read < 0.25
    wild = check(rng.normal(size=(2, 16, dim)).astype(np.float32), rng.normal(size=books.shape).astype(np.float32))
    assert wild.read > 0.9


def test_without_numba_it_is_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stcq.runtime.group_compiled", None)
    monkeypatch.delattr("stcq.runtime.group_compiled", raising=False)
    rng = np.random.default_rng(4)
    assert check(rng.normal(size=(2, 4, 3)).astype(np.float32), books_like((9, 4, 6, 3), 0.1, rng)).kernel is None


def test_mapped_codebooks_are_not_copied(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    np.save(tmp_path / "books.npy", books_like((8, 16, 64, 64), 0.1, rng))
    books = np.load(tmp_path / "books.npy", mmap_mode="r")
    search = check(rng.normal(size=(2, 16, 64)).astype(np.float32), books)
    own = [value for value in vars(search.books).values() if isinstance(value, np.ndarray)]
    assert sum(value.nbytes for value in own if not np.shares_memory(value, books)) < books.nbytes / 8


ROOT = Path(__file__).parent.parent.parent
BUNDLES = ROOT / "bundles"


@pytest.fixture(scope="module")
def many_groups(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """face-65's encoder and decoder with 64 groups of their own sets of books, of 16 codewords each."""
    folder = tmp_path_factory.mktemp("many-groups")
    model = checkpoint.load(ROOT / "checkpoints" / "face-65").eval()
    books = model.codebooks.weight.detach()[0, :, :256:16].numpy()  # (T, 16, d)
    config = dataclasses.replace(model.config.apart(64), codes=16)
    varied = books_like((64, *books.shape), 0.3 * float(books.std()), np.random.default_rng(0), books)
    model.set_books(config, torch.from_numpy(varied))
    checkpoint.save(model, folder / "checkpoint")
    return export(folder / "checkpoint", folder / "bundle").bundle


@pytest.mark.usefixtures("kernel")
def test_groups_that_vary_one_set_of_books_are_hardly_read(face: Array) -> None:
    """Sixteen variations of a set of face-129's books, and a face's real latents."""
    with Codec.load(BUNDLES / "face-129") as codec:
        latents = np.stack([codec.latents(np.roll(face, shift, 1)) for shift in range(5)])
        first = np.array(codec.bundle.codebooks[0])
    varied = books_like((16, *first.shape), 0.3 * float(first.std()), np.random.default_rng(0), first)
    assert check(latents, varied).read < 0.5


@pytest.mark.usefixtures("kernel")
def test_the_codec_gives_the_same_packets(face: Array, many_groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups with sets of their own through the search, as for codebooks past the limit."""
    bundle = many_groups
    images = [np.roll(face, shift, 1) for shift in range(5)]
    with Codec.load(bundle) as codec:
        wanted = codec.encode_batch(images)
        example_packets = codec.encode_batch([open_image(example())])
    monkeypatch.setattr(selection, "SEARCHED", 1)
    with Codec.load(bundle) as searching:
        assert searching.selection.searches
        assert searching.encode_batch(images) == wanted
        timed = stages(searching, [example()], ("encode",))
        assert [stage.name for stage in timed if stage.part_of is None][2:4] == ["encoder", "group selection"]
        group, indices = next(stage for stage in timed if stage.name == "group selection").run()
        assert searching.bundle.manifest.codec.packets.pack(group, indices) == example_packets
    monkeypatch.setattr(selection, "COPIED", 1)  # as for gigabytes that would have to be converted
    with Codec.load(bundle) as graphs:
        assert not graphs.selection.searches
        assert graphs.encode_batch(images) == wanted
    with Codec.load(bundle, policy="router") as routed:
        routed.encode(face)
        assert "search" not in vars(routed.selection)


def test_switches_and_memory_stay_in_the_graph(face: Array, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = codec.encode(face)
    monkeypatch.setattr(selection, "SEARCHED", 1)
    with Codec.load() as embedded:
        assert embedded.info.switches > 1 or embedded.info.memory
        assert not embedded.selection.searches
        assert embedded.encode(face) == wanted


def test_books_that_tokens_share_stay_in_the_graph(
    tmp_path: Path, face: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CodecConfig(
        tokens=8, codes=5, groups=3, dim=3, image_size=32, books="shared", backbone_options={"decoder_mixers": 0}
    )
    checkpoint.save(CodecModel(config).eval(), tmp_path / "checkpoint")
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle").bundle
    with Codec.load(bundle) as codec:
        wanted = codec.encode(face)
    monkeypatch.setattr(selection, "SEARCHED", 1)
    with Codec.load(bundle) as codec:
        assert not codec.selection.searches
        assert codec.encode(face) == wanted
