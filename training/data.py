"""Pictures for training: folders and zips, augmented so that step s of a seed is always the same batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import ImageError, StcqError, TrainingError
from ..runtime.images import open_image, upright
from ..runtime.sources import Source
from .augment import apart, augment, blend
from .options import DataOptions


def square(data: bytes, side: int) -> NDArray[np.uint8] | str:
    """The centred square of an encoded picture as (4, side, side), RGB and alpha; a text says why it is unreadable."""
    try:
        whole = open_picture(data).convert("RGBA")
    except ImageError as error:
        return str(error)
    image = apart(whole, lambda part: ImageOps.fit(part, (side, side), Image.Resampling.LANCZOS))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def open_picture(data: bytes) -> Image.Image:
    """An encoded picture, upright, RGB or, where it has an alpha channel, RGBA.

    Raises:
        ImageError: it cannot be read.
    """
    image = upright(open_image(data))
    try:
        return image.convert("RGBA" if "A" in image.getbands() else "RGB")
    except (OSError, ValueError) as error:
        raise ImageError(f"image of mode {image.mode} cannot be converted: {error}; convert it to PNG") from error


@dataclass(frozen=True)
class Batch:
    """Pictures (B, 4, S, S) uint8, and the unreadable ones that others stand in for ("path: reason")."""

    pictures: Tensor
    unreadable: tuple[str, ...]


class Unreadable:
    """Names unreadable pictures on stderr, each once."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def new(self, batch: Batch) -> list[str]:
        """Those of a batch that were not seen before."""
        found = sorted(set(batch.unreadable) - self.names)
        self.names.update(found)
        for name in found:
            click.echo(f"skipped unreadable picture {name}", err=True)
        return found


class Faces(Dataset[Batch]):
    """Pictures as uint8 (4, S, S): RGB and the weight of each pixel's loss (the picture's alpha, else 255).

    An item's key is (source, index, seed); seed < 0 means no augmentation. An unreadable picture is replaced
    by the next readable one of its source.
    """

    def __init__(self, sources: Sequence[Source], size: int, options: DataOptions) -> None:
        self.sources, self.size, self.options = list(sources), size, options
        sizes = [len(source.names) for source in self.sources]
        if options.weights and len(options.weights) != len(sizes):
            raise TrainingError(
                f"the recipe's [data] weights has {len(options.weights)} numbers for {len(sizes)} data sources; "
                "give --data once for each number, or take weights out of the recipe"
            )
        weights = np.array(options.weights or sizes, float)
        self.share = weights / weights.sum()  # how often each source is drawn

    def __getitem__(self, key: tuple[int, int, int]) -> Batch:
        source, index, seed = key
        rng = None if seed < 0 else np.random.default_rng(seed)
        image, unreadable = self._open(self.sources[source], index)
        image = augment(image, self.size, self.options, rng)
        if rng is not None and self.options.blend and rng.random() < self.options.blend:
            other, more = self._open(self.sources[source], int(rng.integers(len(self.sources[source].names))))
            image, unreadable = blend(image, augment(other, self.size, self.options, rng), rng), unreadable + more
        array = np.array(image.convert("RGBA"))  # (S, S, 4)
        return Batch(torch.from_numpy(array).permute(2, 0, 1), unreadable)

    def _open(self, source: Source, index: int) -> tuple[Image.Image, tuple[str, ...]]:
        """The picture, or the next readable one, and which ones could not be read."""
        unreadable: list[str] = []
        for name in [*source.names[index:], *source.names[:index]]:
            try:
                return open_picture(source.read(name)), tuple(unreadable)
            except ImageError as error:
                unreadable.append(f"{source.path}/{name}: {error}")
        raise TrainingError(f"{source.path} holds no readable picture")


class Batches(Sampler[list[tuple[int, int, int]]]):
    """Batches of item keys; step s depends on the seed and s alone, so a resumed run sees the same pictures.

    Of each batch, device r of n takes every n-th from the r-th on; `place` is (r, n).
    """

    def __init__(
        self, faces: Faces, batch: int, start: int, stop: int, seed: int, place: tuple[int, int] = (0, 1)
    ) -> None:
        self.faces, self.batch, self.start, self.stop, self.seed, self.place = faces, batch, start, stop, seed, place
        self.sizes = [len(source.names) for source in faces.sources]

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        for step in range(self.start, self.stop):
            rng = np.random.default_rng((self.seed, step))
            sources = rng.choice(len(self.sizes), self.batch, p=self.faces.share)
            keys = [(int(s), int(rng.integers(self.sizes[s])), int(rng.integers(2**62))) for s in sources]
            yield keys[self.place[0] :: self.place[1]]

    def __len__(self) -> int:
        return self.stop - self.start


def loader(
    faces: Faces, batch: int, start: int, stop: int, seed: int, place: tuple[int, int] = (0, 1)
) -> Iterator[Batch]:
    """Batches of steps start .. stop - 1; `place` as in `Batches`.

    Raises:
        TrainingError: a source holds no readable picture.
    """
    workers = faces.options.workers
    batches: DataLoader[Batch] = DataLoader(
        faces,
        batch_sampler=Batches(faces, batch, start, stop, seed, place),
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )
    try:
        yield from batches
        return
    except StcqError as error:  # a worker's comes with the worker's traceback, and the message in its last line
        plain = type(error)(str(error).splitlines()[-1].removeprefix(f"{_name(type(error))}: "))
    raise plain  # not in the handler: its traceback would keep the workers until some garbage collection


def _name(kind: type) -> str:
    """A class as a traceback names it."""
    return f"{kind.__module__}.{kind.__qualname__}"


def collate(items: list[Batch]) -> Batch:
    """One batch of single pictures."""
    return Batch(torch.stack([i.pictures for i in items]), tuple(name for i in items for name in i.unreadable))


def split(batch: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Batch (B, 4, S, S) uint8 -> images (B, 3, S, S) and pixel weights (B, 1, S, S), float32 in [0, 1]."""
    scaled = batch.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
    return scaled[:, :3].contiguous(memory_format=torch.channels_last), scaled[:, 3:]


def fixed_set(source: Source, size: int, options: DataOptions, limit: int) -> Tensor:
    """Up to `limit` evenly spaced pictures without augmentation, (N, 4, S, S) uint8."""
    faces = Faces([source], size, dataclasses.replace(options, weights=()))
    picks = np.unique(np.linspace(0, len(source.names) - 1, min(limit, len(source.names))).astype(int))
    return torch.stack([faces[(0, int(i), -1)].pictures for i in picks])
