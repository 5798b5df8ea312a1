"""Latents of the frozen encoder, on which the books stages work."""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from ..errors import TrainingError
from ..models.codec import CodecModel
from ..models.config import CodecConfig
from .data import Unreadable, split
from .material import Material
from .options import BooksOptions
from .run import Run

BATCH = 32
PIXELS = 32 * 128 * 128  # encoded at a time, for activations that stay small at 512 x 512
GPU = 16  # times as many of both on a GPU


def check_enough(count: int, config: CodecConfig, allow_repeats: bool = False, start: str = "lloyd") -> None:
    """Refuse fewer latents than codewords, unless allowed, and more than memory holds, before hours of encoding.

    Raises:
        TrainingError: there are fewer, or more.
    """
    check_memory(count, config)
    points = count * (config.tokens if config.books == "shared" else 1)
    groups = 1 if start == "independent" else config.sets  # each of them has all pictures
    if points < config.codes * groups and not allow_repeats:
        raise TrainingError(
            f"{count} pictures cannot fill {groups} groups of {config.codes} codewords; "
            f"give more pictures, more passes, or fewer codes or groups"
        )


def check_memory(count: int, config: CodecConfig) -> None:
    """Refuse latents and books that cannot be in memory together.

    Raises:
        TrainingError: with what would fit.
    """
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(facts["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux: unknown
        return
    each = 4 * config.tokens * config.dim
    books = 4 * config.sets * config.books_per_group * config.codes * config.dim
    if count * each + 3 * books > free:  # the codec's, those being fitted, and copies of parts
        room = (free - 3 * books) // each
        raise TrainingError(
            f"{count} latents of {each / 1e6:.1f} MB and {books / 1e9:.1f} GB of books need more memory than the "
            f"{free / 1e9:.1f} GB that are free; "
            + (f"keep {room} latents or fewer (--limit)" if room > 0 else "use fewer groups or codes, or shared books")
        )


@torch.no_grad()
def collect(model: CodecModel, options: BooksOptions, material: Material, run: Run | None = None) -> Tensor:
    """Latents (N, T, d) of augmented pictures, computed once for all stages of a run."""
    count = min(options.limit, options.passes * sum(len(s.names) for s in material.faces.sources))
    if material.latents is None or len(material.latents) < count:
        more = 1 if material.device.type == "cpu" else GPU
        batch_size, pixels = BATCH * more, PIXELS * more
        steps = -(-count // batch_size)
        batches = material.batches(batch_size, 0, steps, material.seed + 2)
        unreadable, done = run.unreadable if run else Unreadable(), 0
        size, tokens, dim = model.config.image_size, model.config.tokens, model.config.dim
        latents = torch.empty(steps * batch_size, tokens, dim, device=material.device)
        with click.progressbar(batches, steps, label="latents ") as bar:
            for batch in bar:
                unreadable.new(batch)
                images = split(batch.pictures, material.device)[0]
                for few in torch.split(images, max(1, pixels // size**2)):
                    latents[done : done + len(few)] = model.encode(few).float()
                    done += len(few)
        material.latents = latents[:done]
    return material.latents[:count]
