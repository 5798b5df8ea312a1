"""What every stage works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..runtime.sources import Source
from .data import Batch, Faces, fixed_set, loader
from .losses import ReconstructionLoss
from .options import DataOptions
from .resident import ResidentFaces


@dataclass
class Material:
    """Pictures, loss and engine of a run.

    Attributes:
        resident: the pictures in the device's memory; None = they are read again and again.
        latents: those of the frozen encoder, once a books stage has computed them.
        compiled: whether the gradient stages go through `torch.compile`.
    """

    faces: Faces
    validation: Source | None
    loss: ReconstructionLoss
    fabric: Fabric
    seed: int
    compiled: bool = False
    resident: ResidentFaces | None = None
    latents: Tensor | None = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        return self.fabric.device

    def augment_by(self, options: DataOptions) -> None:
        """Read and augment pictures so from now on; latents of pictures augmented otherwise are forgotten."""
        if options != self.faces.options:
            self.latents = None
        self.faces.options = options
        if self.resident is not None:
            self.resident.options = options

    def batches(self, batch: int, start: int, stop: int, seed: int, place: tuple[int, int] = (0, 1)) -> Iterable[Batch]:
        """Augmented batches of steps start .. stop - 1; of each, device r of n takes every n-th: `place` is (r, n)."""
        if self.resident is not None:
            return self.resident.batches(batch, start, stop, seed, place)
        return loader(self.faces, batch, start, stop, seed, place)

    def plain(self, limit: int) -> Tensor:
        """Up to `limit` evenly spaced pictures of each source without augmentation, (N, 4, S, S) uint8."""
        if self.resident is not None:
            return torch.cat(list(self.resident.plain(limit)))
        options = dataclasses.replace(self.faces.options, weights=())
        return torch.cat([fixed_set(source, self.faces.size, options, limit) for source in self.faces.sources])
