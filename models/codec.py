"""The whole codec as one torch module: backbone + codebooks + router."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .backbones import PRETRAINED
from .codebooks import Quantized, SwitchableCodebooks
from .config import CodecConfig
from .edge import EdgeBackbone
from .eigen import EigenBackbone
from .router import Router


class Backbone(Protocol):
    """What a backbone gives: all its options, and two modules, images -> latents and codes -> images."""

    options: dict[str, Any]

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Encoder, images (B, 3, S, S) in [0, 1] -> (B, T, d), and decoder, (B, T, d) -> images, not clamped."""


BACKBONES: dict[str, Callable[..., Backbone]] = {"edge": EdgeBackbone, "eigen": EigenBackbone, **PRETRAINED}
OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def backbone_class(name: str) -> Callable[..., Backbone]:
    """The class of a backbone: an entry of BACKBONES, or "module:Class" for one that is not part of stcq.

    A checkpoint that names a module makes Python import it, from where Python looks for modules and nowhere else.

    Raises:
        CheckpointError: there is no such entry, module or class.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if not OWN.fullmatch(name):
        raise CheckpointError(
            f"backbone {name!r} is unknown; use one of {', '.join(sorted(BACKBONES))}, or module:Class for your own"
        )
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"backbone {name!r}: {error}; put the module's folder into PYTHONPATH") from error
    if not callable(found) or not hasattr(found, "halves"):
        raise CheckpointError(f"backbone {name!r} has no halves(); see docs/backbones.md")
    return cast(Callable[..., Backbone], found)


class CodecModel(nn.Module):
    """Encoder, switchable codebooks, router and decoder.

    Images are float32 RGB (B, 3, S, S) in [0, 1]; latents are (B, T, d) float32.

    Args:
        config: the sizes.
        backbone: the backbone, where it exists already; None = a new one.

    Raises:
        CheckpointError: the configuration names an unknown backbone or sizes that do not fit it.
    """

    def __init__(self, config: CodecConfig, backbone: Backbone | None = None) -> None:
        super().__init__()
        if backbone is None:
            kind = backbone_class(config.backbone)
            backbone = kind(config.image_size, config.tokens, config.dim, **config.backbone_options)
        self.config = dataclasses.replace(config, backbone_options=backbone.options)
        self.encoder, self.decoder = backbone.halves()
        self.set_books(self.config)

    def set_books(self, config: CodecConfig, weight: Tensor | None = None) -> None:
        """Take books of other groups, switches, memory, codes or kind, all else equal, and a new router.

        Args:
            config: the new configuration.
            weight: the books (V, T or 1, K, d) themselves, not copied: they can be gigabytes; None = random ones.
        """
        self.config = config
        self.codebooks = SwitchableCodebooks(config.switching, config.dim, config.books == "shared", weight)
        self.router = Router(config.tokens, config.dim, config.groups)

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] -> latents (B, T, d)."""
        return cast(Tensor, self.encoder(images))

    def decode(self, codes: Tensor) -> Tensor:
        """Codewords or latents (B, T, d) -> images (B, 3, S, S), not clamped."""
        return cast(Tensor, self.decoder(codes))

    def forward(self, images: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstruct images (B, 3, S, S); also what the quantiser chose."""
        quantized = self.codebooks(self.encode(images))
        return self.decode(quantized.codes), quantized

    @torch.no_grad()
    def tokens(self, images: Tensor, policy: str = "nn") -> tuple[Tensor, Tensor]:
        """Group (B,) int64 and indices (B, T) int64 of images (B, 3, S, S), by policy "nn" or "router"."""
        latents = self.encode(images)
        if policy == "nn":
            return self.codebooks.select(latents)
        group = self.router(latents).argmax(1)
        return group, self.codebooks.select_in(latents, group)

    @torch.no_grad()
    def reconstruct(self, group: Tensor, indices: Tensor) -> Tensor:
        """Group (B,) and indices (B, T) -> uint8 images (B, S, S, 3), rounded half to even like the graphs."""
        images = self.decode(self.codebooks.lookup(group, indices))  # (B, 3, S, S)
        return images.clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
