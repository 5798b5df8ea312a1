"""`stcq ablate`: what switching and token-specific books are worth on one frozen tokenizer.

The rows of table 3 in Wang et al. 2025 (arXiv 2510.22943).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import TrainingError
from ..models import checkpoint
from ..models.codec import CodecModel
from ..models.config import BooksKind
from ..runtime.files import replace_file
from ..runtime.sources import open_source, overlap
from ..training.books import BooksStage
from ..training.data import Faces
from ..training.engine import open_fabric
from ..training.latents import check_enough
from ..training.losses import ReconstructionLoss
from ..training.material import Material
from ..training.options import BooksOptions, DataOptions, LossOptions
from .faces import load_faces
from .means import Mean, known, without_nan
from .quality import psnrs
from .recognizer import Recognizer

KINDS: tuple[tuple[str, str, BooksKind, bool], ...] = (  # row, name, books, switchable
    ("a", "one shared book", "shared", False),
    ("b", "switchable, shared", "shared", True),
    ("c", "token-specific", "specific", False),
    ("d", "switchable token-specific, nn", "specific", True),
)


@dataclass(frozen=True)
class Row:
    """One way to quantise the same latents.

    Attributes:
        row, name: as in the paper's table.
        groups: M. bits: of one face.
        error: squared distance of latents and codewords, per latent number. psnr in dB; ids: recogniser cosine.
        gain: the mean of a picture's IDS less its IDS in row (a), with the paired standard error; None for (a).
    """

    row: str
    name: str
    groups: int
    bits: int
    error: Mean
    psnr: Mean
    ids: Mean
    gain: Mean | None


def ablate(
    source: Path,
    train_images: Sequence[Path],
    images: Path,
    recognizer: Path,
    *,
    codes: int | None = None,
    groups: int | None = None,
    tokens: int | None = None,
    switches: int | None = None,
    memory: int | None = None,
    memory_sets: int | None = None,
    memory_weights: Sequence[int] | None = None,
    crop: float = 1.0,
    limit: int = 30_000,
    seed: int = 0,
    prior: float = 0.0,
    start: Literal["lloyd", "independent"] = "lloyd",
    router_steps: int = 1500,
    test_limit: int | None = None,
    workers: int = 1,
) -> list[Row]:
    """Fit the books of every row to the same latents of the frozen encoder, and measure on other pictures.

    The decoder stays as it is for all rows.

    Args:
        source: the checkpoint folder.
        train_images: faces that the books are fitted to, augmented; images: others, of other people, to measure on.
        codes, groups, tokens: K, M and T; None = the checkpoint's.
        switches, memory, memory_sets, memory_weights: of the token-specific groups; shared books have none. None = the
            checkpoint's, but none where `groups`, `switches` or `memory` are given.
        crop: side of the face crop over the pictures' shorter side.
        limit: latents to fit on. prior, start: as in `BooksOptions`. router_steps: optimiser steps of row (e)'s router.
        test_limit: most pictures to measure on.
        workers: processes that read pictures.

    Raises:
        TrainingError: fewer pictures than codewords, or both kinds of pictures are the same.
        StcqError: any input is unusable.
    """
    if shared := next((path for path in train_images if overlap(path, images)), None):
        raise TrainingError(f"--train-images {shared} and --images {images} share pictures; measure on other people's")
    model = checkpoint.load(source)
    sizes = model.config
    ours = sizes if groups is switches is memory is None else sizes.apart(groups or sizes.groups)
    config = dataclasses.replace(
        ours,
        codes=codes or sizes.codes,
        tokens=tokens or sizes.tokens,
        switches=switches or ours.switches,
        memory=ours.memory if memory is None else memory,
        memory_sets=ours.memory_sets if memory_sets is None else memory_sets,
        memory_weights=ours.memory_weights if memory_weights is None else tuple(memory_weights),
    )
    eyes = Recognizer.load(recognizer)
    faces = Faces(
        [open_source(path) for path in train_images], config.image_size, DataOptions(crop=crop, workers=workers)
    )
    options = BooksOptions(limit=limit, prior=prior, start=start, steps=0)
    check_enough(min(limit, options.passes * sum(len(s.names) for s in faces.sources)), config, start=start)
    judges = load_faces(images, config.image_size, crop, test_limit)
    test, people = judges.images, judges.people  # (N, S, S, 3)
    material = Material(faces, None, ReconstructionLoss(LossOptions(), None), open_fabric("cpu"), seed)
    wanted = np.stack([eyes.embed(image) for image in test])
    rows: list[Row] = []
    first: NDArray[np.float64] | None = None
    for row, name, kind, switchable in KINDS:
        count = config.groups if switchable else 1  # as many bits for (b) and (d)
        ways = config if switchable and kind == "specific" else config.apart(count)
        shape = dataclasses.replace(ways, books=kind)
        fit = dataclasses.replace(options, steps=router_steps) if row == "d" else options  # no other row has one
        codec = BooksStage(kind, model, shape, fit, material).fit()
        for policy in ("nn", "router") if row == "d" else ("nn",):
            error, decoded = reconstruct(codec, test, policy)
            ids = (np.stack([eyes.embed(image) for image in decoded]) * wanted).sum(1)
            first = ids if first is None else first
            letter, title = ("e", "the same with the router") if policy == "router" else (row, name)
            gain = None if letter == "a" else Mean.of(ids - first, people)
            means = (Mean.of(error, people), Mean.of(psnrs(test, decoded), people), Mean.of(ids, people))
            rows.append(Row(letter, title, shape.groups, shape.payload_bits, *means, gain))
    return rows


@torch.no_grad()
def reconstruct(
    codec: CodecModel, images: NDArray[np.uint8], policy: str
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Quantisation errors (N,) per latent number and decoded images (N, S, S, 3) of images (N, S, S, 3)."""
    errors, decoded = [], []
    for part in torch.split(torch.from_numpy(images), 32):
        pictures = part.permute(0, 3, 1, 2).float() / 255
        latents = codec.encode(pictures)
        group, indices = codec.tokens(pictures, policy)
        distance = (codec.codebooks.lookup(group, indices) - latents).square().mean((1, 2))
        errors.append(distance.double().numpy())
        decoded.append(codec.reconstruct(group, indices).numpy())
    return np.concatenate(errors), np.concatenate(decoded)


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table; the gain in standard errors of its own paired difference."""
    lines = [
        "| | books | M | bits | quantisation error | PSNR dB | IDS | IDS over (a) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        gain = ""
        if r.gain is not None:
            gain = f"{r.gain.value:+.4f} +- {known(r.gain.error, '.4f')}"
            gain += f" ({r.gain.value / r.gain.error:+.1f} s.e.)" if r.gain.error > 0 else ""
        lines.append(
            f"| ({r.row}) | {r.name} | {r.groups} | {r.bits} | {r.error.value:.4f} +- {known(r.error.error, '.4f')} "
            f"| {r.psnr.value:.2f} +- {known(r.psnr.error, '.2f')} "
            f"| {r.ids.value:.4f} +- {known(r.ids.error, '.4f')} | {gain} |"
        )
    return "\n".join(lines)


def save(rows: Sequence[Row], out: Path) -> None:
    """Write the rows as JSON."""
    text = json.dumps(without_nan([asdict(r) for r in rows]), indent=2) + "\n"
    replace_file(out, lambda path: path.write_text(text))
