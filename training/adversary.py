"""The optional adversarial term of the decoder stage: a patch discriminator with the hinge loss."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from .options import StageOptions


class Discriminator(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> a score for each patch, (B, 1, S/8 - 2, S/8 - 2) (Isola et al. 2017, PatchGAN).

    Spectral normalisation (Miyato et al. 2018) in the place of BatchNorm.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for number in range(3):
            layers += [spectral_norm(nn.Conv2d(channels, width << number, 4, 2, 1)), nn.LeakyReLU(0.2)]
            channels = width << number
        self.layers = nn.Sequential(*layers, spectral_norm(nn.Conv2d(channels, 1, 3)))

    def forward(self, images: Tensor) -> Tensor:
        """Scores of images."""
        return cast(Tensor, self.layers(images * 2 - 1))


class Adversary:
    """The discriminator and its optimiser, stepped beside the decoder's."""

    def __init__(self, fabric: Fabric, options: StageOptions) -> None:
        self.fabric, self.options = fabric, options
        self.module = Discriminator()
        optimizer = torch.optim.Adam(self.module.parameters(), lr=options.gan_lr, betas=(0.5, 0.9))
        self.wrapped, self.optimizer = fabric.setup(self.module, optimizer)

    def generator_loss(self, decoded: Tensor) -> Tensor:
        """-mean D(decoded), weighted; the discriminator learns nothing from it."""
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        loss = -self.module(decoded).float().mean()
        for parameter in self.module.parameters():
            parameter.requires_grad_(True)
        return cast(Tensor, self.options.gan * loss)

    def learn(self, decoded: Tensor, images: Tensor, share: float) -> Tensor:
        """Accumulate the gradients of `share` of the hinge loss; returns the loss."""
        scores = self.wrapped(torch.cat([decoded.detach(), images])).float()
        fake, real = scores.chunk(2)
        loss = 0.5 * (F.relu(1 + fake).mean() + F.relu(1 - real).mean())
        self.fabric.backward(loss * share)
        return loss.detach()

    def step(self) -> None:
        """Apply and forget the accumulated gradients."""
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Tensors to keep for a resumed run."""
        tensors = {f"gan.{name}": value for name, value in self.module.state_dict().items()}
        for index, kept in self.optimizer.optimizer.state_dict()["state"].items():
            tensors |= {f"gan_optimizer.{index}.{name}": torch.as_tensor(value) for name, value in kept.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up tensors that `state` gave."""
        self.module.load_state_dict({n[4:]: t for n, t in tensors.items() if n.startswith("gan.")})
        document = self.optimizer.optimizer.state_dict()
        document["state"] = {}
        for name, value in tensors.items():
            head, _, rest = name.partition(".")
            if head == "gan_optimizer":
                index, _, field = rest.partition(".")
                document["state"].setdefault(int(index), {})[field] = value
        self.optimizer.optimizer.load_state_dict(document)
