"""Latents of the frozen encoder, on which the books stages work."""

from __future__ import annotations

import click
import torch
from torch import Tensor

from ..errors import TrainingError
from ..models.codec import CodecModel
from ..models.config import CodecConfig
from .data import Unreadable, loader, split
from .material import Material
from .recipe import BooksOptions
from .run import Run


def check_enough(count: int, config: CodecConfig) -> None:
    """Refuse fewer latents than codewords.

    Raises:
        TrainingError: there are fewer.
    """
    points = count * (config.tokens if config.books == "shared" else 1)
    if points < config.codes * config.groups:
        raise TrainingError(
            f"{count} pictures cannot fill {config.groups} groups of {config.codes} codewords; "
            f"give more pictures, more passes, or fewer codes or groups"
        )


@torch.no_grad()
def collect(model: CodecModel, options: BooksOptions, material: Material, run: Run | None = None) -> Tensor:
    """Latents (N, T, d) of augmented pictures, computed once for all stages of a run."""
    count = min(options.limit, options.passes * sum(len(s.names) for s in material.faces.sources))
    if material.latents is None or len(material.latents) < count:
        batches = loader(material.faces, 32, 0, -(-count // 32), material.seed + 2)
        latents, unreadable = [], run.unreadable if run else Unreadable()
        with click.progressbar(batches, label="latents ") as bar:
            for batch in bar:
                unreadable.new(batch)
                latents.append(model.encode(split(batch.pictures, material.device)[0]).float())
        material.latents = torch.cat(latents)
    return material.latents[:count]
