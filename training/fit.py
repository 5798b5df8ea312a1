"""`stcq fit-codebooks`: switchable codebooks for an existing tokenizer, without gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..models import checkpoint
from ..models.config import BooksKind
from ..runtime.sources import open_source
from .books import BooksStage
from .data import Faces
from .engine import open_fabric
from .latents import check_enough
from .losses import ReconstructionLoss
from .material import Material
from .options import BooksOptions, DataOptions, LossOptions


def fit_checkpoint(
    source: Path,
    images: Sequence[Path],
    out: Path,
    *,
    groups: int,
    codes: int,
    books: BooksKind = "specific",
    switches: int = 1,
    memory: int = 0,
    memory_sets: int = 0,
    memory_weights: Sequence[int] = (),
    data: DataOptions | None = None,
    options: BooksOptions | None = None,
    seed: int = 0,
    device: str = "auto",
    allow_repeats: bool = False,
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
        switches: S, runs of tokens that choose apart among the S-th root of M sets of books.
        memory: D, tokens whose codes pick the next one's set (runtime/trellis.py); 0 = none.
        memory_sets: sets of books that they pick among; 0 = the D-th root of M.
        memory_weights: D whole numbers, in the sum that picks; none = all 1.
        data: cropping and augmentation; None = the defaults.
        options: passes, latents kept, iterations; None = the defaults.
        allow_repeats: accept fewer pictures than codewords, of which some then repeat: for trying sizes and speed.

    Raises:
        CheckpointError: the checkpoint is unusable, or `out` is the source.
        TrainingError: fewer pictures than codewords, or options that need another one.
        ImageError: no pictures.
    """
    if out.resolve() == source.resolve():
        raise TrainingError(f"{out} is the checkpoint itself; give another -o")
    options = options or BooksOptions()
    if (options.shuffle and not memory) or (options.turn and not options.shuffle):
        raise TrainingError("--shuffle needs a --memory, and --turn a --shuffle; give it, or leave the other out")
    model = checkpoint.load(source)
    sizes: dict[str, Any] = {"groups": groups, "codes": codes, "switches": switches, "memory": memory}
    sizes |= {"memory_sets": memory_sets, "memory_weights": list(memory_weights)}
    config = dataclasses.replace(model.config, books=books, **sizes)
    faces = Faces([open_source(path) for path in images], config.image_size, data or DataOptions())
    count = options.passes * sum(len(s.names) for s in faces.sources)
    check_enough(min(count, options.limit), config, allow_repeats, options.start)
    material = Material(faces, None, ReconstructionLoss(LossOptions(), None), open_fabric(device), seed)
    result = BooksStage(books, model, config, options, material).fit()
    provenance = checkpoint.read_config(source)[1]
    fitted = {"images": [path.name for path in images], "books": books, "seed": seed} | sizes
    checkpoint.save(result, out, provenance | {"fit_codebooks": fitted})
    return out
