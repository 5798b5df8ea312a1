"""Pictures that live decoded in the memory of the training device and are augmented there.

Decoding and moving pictures takes some milliseconds of a CPU core each, and a GPU trains on thousands a second.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence

import click
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import ImageError, TrainingError
from ..runtime.sources import Source
from .augment import CELLS, PATCHES
from .data import Batch, Batches, Faces, square

FEW = 500  # pictures for which no further process is worth its start
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601, as Pillow's


class Squares(Dataset[bytes | str]):
    """The pictures of a source as `data.square` gives them, in bytes: a tensor of a worker's holds a file open."""

    def __init__(self, source: Source, side: int) -> None:
        self.source, self.side = source, side

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, index: int) -> bytes | str:
        try:
            found = square(self.source.read(self.source.names[index]), self.side)
        except ImageError as error:
            return str(error)
        return found if isinstance(found, str) else found.tobytes()


class ResidentFaces:
    """All pictures of `Faces`, cropped to their centred square, at the size that shows a crop at S x S pixels.

    Step s of a seed is always the same batch, as with the `Faces` themselves, whose options hold; pictures are not
    quite the same ones, since they are moved by other code.

    Raises:
        TrainingError: a source holds no readable picture, or all pictures together do not fit into memory.
    """

    def __init__(self, faces: Faces, device: torch.device) -> None:
        self.faces, self.size, self.options, self.device = faces, faces.size, faces.options, device
        self.side = max(self.size, math.ceil(self.size / self.options.crop - 1e-6))
        self.unreadable: list[str] = []
        self.pictures = [self._read(source) for source in faces.sources]  # of each source, (N, 4, R, R) uint8

    def _read(self, source: Source) -> Tensor:
        """All readable pictures of a source, decoded by as many processes as there are CPUs if there are many."""
        found: list[NDArray[np.uint8]] = []
        shape = (4, self.side, self.side)
        workers = min(os.cpu_count() or 1, len(source.names) // FEW)
        loader = DataLoader(Squares(source, self.side), None, num_workers=workers)
        with click.progressbar(loader, len(source.names), "pictures") as bar:
            for name, picture in zip(source.names, bar, strict=True):
                if isinstance(picture, str):
                    self.unreadable.append(f"{source.path}/{name}: {picture}")
                else:
                    found.append(np.frombuffer(picture, np.uint8).reshape(shape))
        if not found:
            raise TrainingError(f"{source.path} holds no readable picture")
        try:
            return torch.from_numpy(np.stack(found)).to(self.device)
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise TrainingError(
                f"the pictures do not fit into the memory of {self.device}; use --no-resident"
            ) from error

    def batches(self, batch: int, start: int, stop: int, seed: int, place: tuple[int, int] = (0, 1)) -> Iterator[Batch]:
        """Batches of steps start .. stop - 1; of each, device r of n takes every n-th: `place` is (r, n)."""
        reported = tuple(self.unreadable)
        for keys in Batches(self.faces, batch, start, stop, seed, place):
            sources = np.array([source for source, _, _ in keys])
            picks = np.array([index for _, index, _ in keys])
            rng = np.random.default_rng(keys[0][2])
            pictures = self._moved(sources, picks, rng)
            mixed = np.flatnonzero(rng.random(len(keys)) < self.options.blend)
            if len(mixed):
                others = self._moved(sources[mixed], rng.integers(2**31, size=len(mixed)), rng)
                chosen = torch.from_numpy(mixed).to(self.device)
                weights = torch.from_numpy(rng.random((len(mixed), 1, PATCHES, PATCHES))).float().to(self.device)
                pictures[chosen] = mix(pictures[chosen], others, weights)
            yield Batch(pictures, reported)
            reported = ()

    def _moved(self, sources: NDArray[np.int64], picks: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Pictures of some sources, (B,) and (B,), moved at random: (B, 4, S, S) uint8."""
        count = len(picks)
        parts = torch.empty(count, 4, self.side, self.side, dtype=torch.uint8, device=self.device)
        for number, pictures in enumerate(self.pictures):
            mine = np.flatnonzero(sources == number)
            chosen = torch.from_numpy(picks[mine] % len(pictures)).to(self.device)
            parts[torch.from_numpy(mine).to(self.device)] = pictures[chosen]
        drawn = [rng.uniform(-1, 1, (count, 8))]
        if self.options.warp:  # by up to a strength that is drawn for each picture
            drawn.append(rng.random((count, 1)) * rng.uniform(-1, 1, (count, 2 * (CELLS + 1) ** 2)))
        return self.augment(parts, torch.from_numpy(np.hstack(drawn)).float().to(self.device))

    def augment(self, pictures: Tensor, drawn: Tensor) -> Tensor:
        """Cut crops of (B, 4, R, R) uint8, moved by numbers `drawn` (B, 8 or more) in -1 .. 1: (B, 4, S, S) uint8.

        They mean: shift in x and y, angle, zoom, mirror, brightness, contrast, saturation, as `augment.augment` has
        them, and then, if there are more, where the mesh's points go.
        """
        options = self.options
        dx, dy, turn, zoom, mirror, *light = drawn[:, :8].unbind(1)
        angle = torch.deg2rad(turn * options.rotate)
        scale = options.crop * (1 + zoom * options.zoom)
        flip = torch.where(mirror < 0, -1.0, 1.0)
        cos, sin = scale * angle.cos(), scale * angle.sin()
        rows = [torch.stack([cos * flip, sin, 2 * options.crop * dx * options.shift], 1)]
        rows += [torch.stack([-sin * flip, cos, 2 * options.crop * dy * options.shift], 1)]
        grid = F.affine_grid(torch.stack(rows, 1), [len(pictures), 4, self.size, self.size], align_corners=False)
        if drawn.shape[1] > 8:
            points = 2 * options.crop * options.warp * drawn[:, 8:].reshape(-1, 2, CELLS + 1, CELLS + 1)
            grid = grid + F.interpolate(points, grid.shape[1:3], mode="bilinear", align_corners=True).movedim(1, 3)
        moved = F.grid_sample(pictures.float(), grid, "bicubic", "zeros", align_corners=False).clamp(0, 255)
        rgb, alpha = moved[:, :3], moved[:, 3:]
        if options.light:
            brightness, contrast, colour = (1 + options.light * value.reshape(-1, 1, 1, 1) for value in light)
            weights = rgb.new_tensor(GREY).reshape(1, 3, 1, 1)
            rgb = (rgb * brightness).clamp(0, 255)
            mean = (rgb * weights).sum(1, keepdim=True).mean((2, 3), keepdim=True)
            rgb = (mean + contrast * (rgb - mean)).clamp(0, 255)
            grey = (rgb * weights).sum(1, keepdim=True)
            rgb = (grey + colour * (rgb - grey)).clamp(0, 255)
        return torch.cat([rgb, alpha], 1).round().to(torch.uint8)

    def plain(self, limit: int) -> Sequence[Tensor]:
        """Up to `limit` evenly spaced pictures of each source without augmentation, each (N, 4, S, S) uint8."""
        found = []
        for pictures in self.pictures:
            picks = np.unique(np.linspace(0, len(pictures) - 1, min(limit, len(pictures))).astype(int))
            still = torch.zeros(8, device=self.device)
            still[4] = 1  # no mirror
            parts = torch.split(torch.from_numpy(picks).to(self.device), 512)
            found.append(torch.cat([self.augment(pictures[few], still.expand(len(few), -1)) for few in parts]))
        return found


def mix(pictures: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """Pictures (B, 4, S, S) uint8 mixed with others by weights (B, 1, P, P) in 0 .. 1, as `augment.blend` has it."""
    mask = F.interpolate(weights, pictures.shape[2:], mode="bicubic", align_corners=False).clamp(0, 1)
    return torch.lerp(pictures.float(), others.float(), mask).round().to(torch.uint8)
