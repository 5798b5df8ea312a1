"""Exact group selection of one face at the paper's size: stcq against numpy, torch and FAISS brute force.

Every one of them finds each group's least distance in each token, and the best group; FAISS has no search by groups, so
its distance kernel is used. What the search with numba needs for a face is the anchors and radii of all places and, of
those that are near, the radii of blocks and the blocks of 16-bit codewords that are read. Lines at the end compare it
with summing these bytes as 64-bit numbers: as many in one piece, cold, and the same pieces where they lie, each asked
for a few pieces ahead.

usage: OMP_NUM_THREADS=1 python benchmarks/search.py --books books-1.npy --latents held-out.npy  (needs stcq[benchmark])
       without files: books that vary one set, drawn at random, which says little about trained ones
"""

import os
from collections import Counter
from pathlib import Path
from unittest import mock

import click
import faiss
import numpy as np
import torch
from interleave import interleave, table
from numba import njit
from stcq.profiling.quantiles import ratio
from stcq.profiling.tables import between
from stcq.runtime import group_search
from stcq.runtime.group_kernel import FIRST
from stcq.runtime.group_search import GroupSearch
from stcq.runtime.group_vector import prefetch

SHAPE = (256, 128, 256, 12)
FEW = 8  # pieces that are asked for before one is summed
WITH_NUMBA, IN_ONE_PIECE, WHERE_THEY_LIE = (
    "stcq with numba",
    "stream its bytes, one piece",
    "sum its bytes where they lie",
)


def drawn(spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Random books whose groups vary one set, and random latents."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=SHAPE[1:]).astype(np.float32)
    sizes = spread * rng.gamma(0.15, 0.7, (*SHAPE[:3], 1)).astype(np.float32)
    books = base + sizes * rng.standard_normal(SHAPE, np.float32) / np.float32(SHAPE[3] ** 0.5)
    return books, rng.normal(size=(64, SHAPE[1], SHAPE[3])).astype(np.float32)


def brute_force(books: np.ndarray, z: np.ndarray) -> tuple[int, np.ndarray]:
    """In float64, differences squared."""
    tables = [np.square(z[:, None].astype(np.float64) - group).sum(2) for group in books]
    best = int(np.argmin([table.min(1).sum() for table in tables]))
    return best, tables[best].argmin(1)


@njit(fastmath={"reassoc"})
def stream(words: np.ndarray) -> int:
    """The sum of a piece of memory, int64."""
    total = 0
    for word in words:
        total += word
    return total


@njit(fastmath={"reassoc"})
def pieces(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> int:
    """The sum of pieces of int64, each asked for a few pieces before it is summed."""
    total, last = 0, len(starts) - 1
    for i in range(-FEW, len(starts)):
        following = min(i + FEW, last)
        for x in range(0, lengths[following], 8):
            prefetch(words, starts[following] + x)
        if i >= 0:
            for x in range(starts[i], starts[i] + lengths[i]):
                total += words[x]
    return total


class Needed:
    """The memory that the search with numba must read for some faces, to be summed instead."""

    def __init__(self, search: GroupSearch, faces: np.ndarray) -> None:
        kernel, self.turn = search.kernel, 0
        self.cells, self.widest = (part.reshape(-1).view(np.int64) for part in (kernel.cells, kernel.widest))
        self.fixed = [part.reshape(-1).view(np.int64) for part in kernel.survey]
        blocks, row = kernel.widest.shape[1], kernel.cells.shape[1] // 4
        block = (faces.shape[2] + 1) * 16 // 4  # words of 8 bytes, of 16-bit numbers
        self.places, self.lengths, self.radii = [], [], []
        for z in faces:
            found = kernel.nearest(z)
            later = found.places[len(z) * FIRST :].astype(np.int64)
            self.places.append(found.places.astype(np.int64) * row)
            self.lengths.append(row - blocks * block + found.counts.astype(np.int64) * block)
            self.radii.append((later * (blocks // 2), np.full(len(later), blocks // 2)))
        everywhere = sum(len(part) for part in self.fixed)
        self.words = [everywhere + n.sum() + radii[1].sum() for n, radii in zip(self.lengths, self.radii, strict=True)]

    def in_one_piece(self, number: int) -> int:
        """As many bytes of the cells in order, others each time, so that caches do not have them."""
        count = int(self.words[number])
        self.turn = (self.turn + 1) % (len(self.cells) // count)
        return stream(self.cells[self.turn * count : (self.turn + 1) * count])

    def where_they_lie(self, number: int) -> int:
        """The same pieces that the search reads."""
        cells = pieces(self.cells, self.places[number], self.lengths[number])
        return sum(map(stream, self.fixed)) + pieces(self.widest, *self.radii[number]) + cells


@click.command()
@click.option("--books", "books_file", type=click.Path(path_type=Path, exists=True))
@click.option("--latents", "latents_file", type=click.Path(path_type=Path, exists=True))
@click.option("--spread", default=1.0, show_default=True, help="How far the groups of random books lie apart.")
@click.option("--rounds", default=40, show_default=True)
@click.option("--check", default=5, show_default=True, help="Faces to compare with float64 brute force.")
def main(books_file: Path | None, latents_file: Path | None, spread: float, rounds: int, check: int) -> None:
    books, latents = (np.load(books_file), np.load(latents_file)) if books_file and latents_file else drawn(spread)
    groups, tokens, codes, dim = books.shape
    faces = latents[:: max(1, len(latents) // 50)]
    turns = Counter[str]()
    search = GroupSearch(books)
    assert search.kernel, "numba is missing: pip install stcq[search]"
    with mock.patch.object(group_search, "compiled", return_value=None):
        plain = GroupSearch(books)
    reads = []
    for number, z in enumerate(faces):
        group, indices = search.select(z[None])
        reads.append(search.read)
        if number < check:
            best, row = brute_force(books, z)
            assert (group[0], indices[0].tolist()) == (best, row.tolist()), number
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    click.echo(f"M {groups} T {tokens} K {codes} d {dim}, {books.nbytes / 1e6:.0f} MB, OMP_NUM_THREADS {threads}")
    click.echo(f"equal to float64 brute force on {check} faces; reads {np.mean(reads):.1%} of the codewords")
    flat = np.ascontiguousarray(books.transpose(1, 3, 0, 2)).reshape(tokens, dim, -1)  # (T, d, M * K)
    rows = np.ascontiguousarray(books.transpose(1, 0, 2, 3)).reshape(tokens, -1, dim)  # (T, M * K, d)
    norms = np.square(rows).sum(2)  # (T, M * K)
    flat_t, rows_t, norms_t = map(torch.from_numpy, (flat, rows, norms))

    def turn(name: str) -> int:
        turns[name] += 1
        return turns[name] % len(faces)

    def face(name: str) -> np.ndarray:
        return faces[turn(name)]

    def by_numpy() -> int:
        z, best = -2 * face("numpy"), np.empty((tokens, groups), np.float32)
        for t in range(tokens):
            (norms[t] + z[t] @ flat[t]).reshape(groups, codes).min(1, out=best[t])
        return int(best.sum(0).argmin())

    def by_torch() -> int:
        z = torch.from_numpy(face("torch"))
        found = torch.baddbmm(norms_t[:, None], z[:, None], flat_t, alpha=-2)
        return int(found.reshape(tokens, groups, codes).amin(2).sum(0).argmin())

    def by_cdist() -> int:
        found = torch.cdist(torch.from_numpy(face("torch cdist"))[:, None], rows_t).square()
        return int(found.reshape(tokens, groups, codes).amin(2).sum(0).argmin())

    def by_faiss() -> int:
        z, best = face("faiss"), np.empty((tokens, groups), np.float32)
        for t in range(tokens):
            faiss.pairwise_distances(z[t : t + 1], rows[t]).reshape(groups, codes).min(1, out=best[t])
        return int(best.sum(0).argmin())

    assert by_numpy() == by_torch() == by_cdist() == by_faiss()
    needed = Needed(search, faces)

    functions = {
        WITH_NUMBA: lambda: search.select(face(WITH_NUMBA)[None]),
        "stcq without": lambda: plain.select(face("plain")[None]),
        "numpy, token by token": by_numpy,
        "torch baddbmm": by_torch,
        "torch cdist": by_cdist,
        "faiss": by_faiss,
        "stream the codebooks": lambda: stream(books.reshape(-1).view(np.int64)),
        IN_ONE_PIECE: lambda: needed.in_one_piece(turn(IN_ONE_PIECE)),
        WHERE_THEY_LIE: lambda: needed.where_they_lie(turn(WHERE_THEY_LIE)),
    }
    times = interleave(functions, rounds, warm=2)
    brute = ["numpy, token by token", "torch baddbmm", "torch cdist", "faiss"]
    table(times, min(brute, key=lambda name: float(np.median(times[name]))))
    click.echo(f"the search with numba needs {np.mean(needed.words) * 8e-6:.1f} MB of its copy for a face")
    for name in (IN_ONE_PIECE, WHERE_THEY_LIE):
        times_slower = ratio(times[name], times[WITH_NUMBA])
        ends = between(times_slower.to_dict(), 2)
        click.echo(f"{WITH_NUMBA}: {times_slower.value:.2f} ({ends}) times {name}")


if __name__ == "__main__":
    main()
