"""What every stage works with."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..runtime.sources import Source
from .data import Faces
from .losses import ReconstructionLoss


@dataclass
class Material:
    """Pictures, loss and engine of a run.

    Attributes:
        latents: those of the frozen encoder, once a books stage has computed them.
        compiled: whether the gradient stages go through `torch.compile`.
    """

    faces: Faces
    validation: Source | None
    loss: ReconstructionLoss
    fabric: Fabric
    seed: int
    compiled: bool = False
    latents: Tensor | None = field(default=None, repr=False)

    @property
    def device(self) -> torch.device:
        """Where tensors go."""
        return self.fabric.device
