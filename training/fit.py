"""`stcq fit-codebooks`: switchable codebooks for an existing tokenizer, without gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from ..errors import TrainingError
from ..models import checkpoint
from ..models.config import BooksKind
from ..runtime.sources import open_source
from .books import collect, fit_codebooks
from .data import Faces
from .losses import ReconstructionLoss
from .recipe import BooksOptions, DataOptions, LossOptions
from .stage import Material
from .train import pick_device


def fit_checkpoint(
    source: Path,
    images: Sequence[Path],
    out: Path,
    *,
    groups: int,
    codes: int,
    books: BooksKind = "specific",
    data: DataOptions | None = None,
    options: BooksOptions | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Path:
    """Fit books and router to the latents of pictures and save the result as a new checkpoint.

    Encoder and decoder stay as they are. The fit is a generalised Lloyd iteration: every picture goes to the
    group of least error, every (group, token) book is refitted, and so on (training/lloyd.py).

    Args:
        source: the checkpoint folder.
        images: folders or zips of faces.
        out: the new checkpoint's folder.
        groups, codes: M and K.
        books: "specific", or "shared" for one book per group.
        data: cropping and augmentation; None = the defaults.
        options: passes, latents kept, iterations; None = the defaults.

    Raises:
        CheckpointError: the checkpoint is unusable, or `out` is the source.
        TrainingError: fewer pictures than codewords.
        ImageError: no pictures.
    """
    if out.resolve() == source.resolve():
        raise TrainingError(f"{out} is the checkpoint itself; give another -o")
    model = checkpoint.load(source)
    options = options or BooksOptions()
    config = dataclasses.replace(model.config, groups=groups, codes=codes, books=books)
    faces = Faces([open_source(path) for path in images], config.image_size, data or DataOptions())
    count = options.passes * sum(len(s.names) for s in faces.sources)
    if min(count, options.limit) * (config.tokens if books == "shared" else 1) < groups * codes:
        raise TrainingError(
            f"{min(count, options.limit)} pictures cannot fill {groups} groups of {codes} codewords; "
            f"give more pictures, more passes, or fewer codes or groups"
        )
    material = Material(faces, None, ReconstructionLoss(LossOptions(), None), pick_device(device), seed, False)
    result = fit_codebooks(model, config, collect(model, options, material), options, seed)
    provenance = checkpoint.read_config(source)[1]
    fitted = {"images": [path.name for path in images], "groups": groups, "codes": codes, "books": books, "seed": seed}
    checkpoint.save(result, out, provenance | {"fit_codebooks": fitted})
    return out
