"""Exact group selection of one face at the paper's size: stcq against numpy, torch and FAISS brute force.

Every one of them finds each group's least distance in each token, and the best group; FAISS has no search by groups, so
its distance kernel is used. "stream" sums the codebooks once, "stream what is read" as many bytes as the float32
codewords that the search reads, in one piece; "read where it lies" sums as many 16-bit cells at places drawn at random.

usage: OMP_NUM_THREADS=1 python benchmarks/search.py --books books-1.npy --latents held-out.npy  (needs stcq[benchmark])
       without files: books that vary one set, drawn at random, which says little about trained ones
"""

import os
from pathlib import Path
from unittest import mock

import click
import faiss
import numpy as np
import torch
from interleave import interleave, table
from numba import njit
from stcq.runtime import group_search
from stcq.runtime.group_search import GroupSearch

SHAPE = (256, 128, 256, 12)


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
def touch(cells: np.ndarray, places: np.ndarray, total: np.ndarray) -> None:
    for place in places:
        for j in range(cells.shape[1]):
            for m in range(cells.shape[2]):
                total[m] += cells[place, j, m]


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
    turns = {"stcq": 0, "plain": 0, "numpy": 0, "torch": 0, "torch cdist": 0, "faiss": 0, "read": 0}
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

    def face(name: str) -> np.ndarray:
        turns[name] += 1
        return faces[turns[name] % len(faces)]

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
    needed = books.reshape(-1)[: int(np.mean(reads) * books.size)]
    cells = search.kernel.cells
    places = np.sort(np.random.default_rng(0).choice(len(cells), int(np.mean(reads) * len(cells)), replace=False))
    functions = {
        "stcq with numba": lambda: search.select(face("stcq")[None]),
        "stcq without": lambda: plain.select(face("plain")[None]),
        "numpy, token by token": by_numpy,
        "torch baddbmm": by_torch,
        "torch cdist": by_cdist,
        "faiss": by_faiss,
        "stream": lambda: books.sum(),
        "stream what is read": lambda: needed.sum(),
        "read where it lies": lambda: touch(cells, places, np.zeros(groups, np.float32)),
    }
    times = interleave(functions, rounds, warm=2)
    brute = ["numpy, token by token", "torch baddbmm", "torch cdist", "faiss"]
    table(times, min(brute, key=lambda name: float(np.median(times[name]))))


if __name__ == "__main__":
    main()
