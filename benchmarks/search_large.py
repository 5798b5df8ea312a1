"""Exact group selection over 4.3 GB of memory-mapped codebooks (M 16, T 256, K 1024, d 256): time and memory.

The books are drawn at random, groups varying one set; no trained ones of this size exist. With --apart the groups have
nothing in common, so that everything must be read. The file is written once, and removed at the end unless --keep.

usage: OMP_NUM_THREADS=1 python benchmarks/search_large.py --file books.npy [--apart] [--faces 5]
"""

import resource
import time
from pathlib import Path

import click
import numpy as np
from stcq.profiling.memory import memory
from stcq.runtime.group_search import GroupSearch

SHAPE = (16, 256, 1024, 256)


def write(file: Path, apart: bool) -> None:
    """One group after the other, straight to the file."""
    base = np.random.default_rng(0).standard_normal(SHAPE[1:], np.float32)
    header = np.lib.format.header_data_from_array_1_0(np.empty(0, np.float32)) | {"shape": SHAPE}
    with file.open("wb") as out:
        np.lib.format.write_array_header_1_0(out, header)
        for m in range(SHAPE[0]):
            rng = np.random.default_rng(m + 1)
            for token in base:
                books = rng.standard_normal(token.shape, np.float32)
                if not apart:
                    books = token + books * rng.gamma(0.15, 1.0, (SHAPE[2], 1)).astype(np.float32)
                out.write(books.tobytes())


def brute_force(books: np.ndarray, z: np.ndarray) -> tuple[int, list[int]]:
    """In float64, differences squared, one book at a time."""
    errors, indices = [], []
    for group in books:
        tables = [np.square(book.astype(np.float64) - row).sum(1) for book, row in zip(group, z, strict=True)]
        errors.append(sum(table.min() for table in tables))
        indices.append([int(table.argmin()) for table in tables])
    return int(np.argmin(errors)), indices[int(np.argmin(errors))]


@click.command()
@click.option("--file", required=True, type=click.Path(path_type=Path))
@click.option("--apart", is_flag=True)
@click.option("--faces", default=5, show_default=True)
@click.option("--check", default=1, show_default=True, help="Faces to compare with float64 brute force.")
@click.option("--keep", is_flag=True)
def main(file: Path, apart: bool, faces: int, check: int, keep: bool) -> None:
    if not file.exists():
        write(file, apart)
    books = np.load(file, mmap_mode="r")
    rng = np.random.default_rng(99)
    latents = books[3, np.arange(SHAPE[1]), rng.integers(0, SHAPE[2], (faces, SHAPE[1]))]
    latents = latents + 0.5 * rng.standard_normal(latents.shape, np.float32)
    start = time.perf_counter()
    search = GroupSearch(books)
    click.echo(f"survey of {books.nbytes / 1e9:.1f} GB: {time.perf_counter() - start:.1f} s")
    found = []
    for z in latents:
        start = time.perf_counter()
        found.append(search.select(z[None]))
        click.echo(f"one face: {(time.perf_counter() - start) * 1e3:.0f} ms, read {search.read:.1%} of the codewords")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    click.echo(f"memory: {memory()}, peak {peak:.2f} GB")
    for z, (group, indices) in list(zip(latents, found, strict=True))[:check]:
        assert (int(group[0]), indices[0].tolist()) == brute_force(books, z)
    click.echo(f"equal to float64 brute force on {check} faces")
    if not keep:
        file.unlink()


if __name__ == "__main__":
    main()
