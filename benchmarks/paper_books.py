"""Codebooks of the paper's size (M 256, T 128, K 256, d 12: 403 MB) fitted to real latents, for benchmarks/search.py.

There is no trained model of this size. The latents are those of a trained encoder before its head: 192 channels on an
8 x 8 grid, brought by PCA to 24 of unit variance, which is two tokens of 12 numbers a cell. The books are fitted with
the project's Lloyd iteration: one set for all, then each group's on the pictures of one k-means cluster, three rounds,
pulled towards the common ones as in recipes/ (prior 4). `--copies 8 --noise 0.25` fits them to eight noisy copies of
every latent instead, so that the groups lie eight times less close to each other.

usage: python benchmarks/paper_books.py FACES.zip... --held-out FACES.zip -o FOLDER [--copies 1]      (ten minutes)
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from stcq.models import checkpoint as checkpoints
from stcq.runtime.images import open_image
from stcq.training.lloyd import fit_books, nearest, refit
from torch import Tensor

ROOT = Path(__file__).parent.parent
GROUPS, TOKENS, CODES, DIM = 256, 128, 256, 12
PRIOR, ROUNDS = 4.0, 3


def pictures(files: tuple[Path, ...], rng: np.random.Generator | None) -> Iterator[np.ndarray]:
    """Crops of 128 x 128 pixels, moved and mirrored at random when there is a generator."""
    for file in files:
        with zipfile.ZipFile(file) as archive:
            for name in sorted(name for name in archive.namelist() if name.endswith(".webp")):
                pixels = np.asarray(open_image(archive.read(name)).convert("RGB"))
                top, left = (16, 16) if rng is None else rng.integers(8, 25, 2)
                crop = pixels[top : top + 128, left : left + 128]
                yield np.ascontiguousarray(crop[:, ::-1] if rng is not None and rng.random() < 0.5 else crop)


@torch.inference_mode()
def features(encoder: torch.nn.Module, images: Iterator[np.ndarray], few: int = 32) -> np.ndarray:
    """The encoder's features before its head, (N, 64, 192) float16."""
    found, waiting = [], []

    def flush() -> None:
        x = torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = encoder.stem(x.contiguous(memory_format=torch.channels_last))
        for down, blocks in zip(encoder.downs, encoder.blocks, strict=True):
            x = blocks(down(x))
        found.append(encoder.mixers(x).flatten(2).transpose(1, 2).half().numpy())
        waiting.clear()

    for image in images:
        waiting.append(image)
        if len(waiting) == few:
            flush()
    if waiting:
        flush()
    return np.concatenate(found)


def head(sample: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (192,) and projection (192, 24): principal components of unit variance, rotated at random."""
    flat = sample.reshape(-1, sample.shape[-1]).astype(np.float32)
    powers, axes = np.linalg.eigh(np.cov((flat - flat.mean(0)).T))
    width = TOKENS // 64 * DIM
    powers, axes = powers[::-1][:width], axes[:, ::-1][:, :width]
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(width, width)))
    return flat.mean(0), (axes / np.sqrt(powers) @ turn).astype(np.float32)


def fit(latents: Tensor, copies: int, noise: float) -> Tensor:
    """Books (M, T, K, d) of latents (N, T, d), rounded to half precision as checkpoints are."""
    generator = torch.Generator().manual_seed(0)
    base = fit_books(latents[::2], CODES, 4, generator)
    flat = latents.flatten(1)[:, None]
    group = nearest(flat, fit_books(flat, GROUPS, 5, generator))[0][:, 0]
    books = base.expand(GROUPS, -1, -1, -1).clone()
    with click.progressbar(range(GROUPS), label="groups") as bar:
        for m in bar:
            mine = latents[group == m].repeat(copies, 1, 1)
            if copies > 1:
                mine = mine + noise * torch.randn(mine.shape, generator=generator)
            for _ in range(ROUNDS):
                books[m] = refit(mine, books[m], *nearest(mine, books[m]), towards=base, prior=PRIOR)
    return books.half().float()


@click.command()
@click.argument("faces", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--held-out", required=True, type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path))
@click.option("--checkpoint", type=click.Path(path_type=Path), default=ROOT / "checkpoints" / "face-65")
@click.option("--copies", default=1, show_default=True)
@click.option("--noise", default=0.25, show_default=True)
def main(faces: tuple[Path, ...], held_out: Path, out: Path, checkpoint: Path, copies: int, noise: float) -> None:
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    encoder = checkpoints.load(checkpoint).encoder
    if not (out / "train.npy").exists():
        seen = features(encoder, pictures(faces, np.random.default_rng(0)))
        unseen = features(encoder, pictures((held_out,), None))
        mean, projection = head(seen[::8])
        for name, part in (("train", seen), ("held-out", unseen)):
            latents = np.concatenate([(few - mean) @ projection for few in np.array_split(part, 64)])
            np.save(out / f"{name}.npy", latents.reshape(-1, TOKENS, DIM).astype(np.float32))
    latents = torch.from_numpy(np.load(out / "train.npy"))
    np.save(out / f"books-{copies}.npy", fit(latents, copies, noise).numpy())


if __name__ == "__main__":
    main()
