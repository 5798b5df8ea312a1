"""The whole codec as one torch module: backbone + codebooks + router."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .codebooks import Quantized, SwitchableCodebooks
from .config import CodecConfig
from .edge import EdgeBackbone
from .router import Router


class Backbone(Protocol):
    """What a backbone gives: two modules, images -> latents and latents -> images, and all its options."""

    options: dict[str, Any]
    encoder: nn.Module
    decoder: nn.Module


BACKBONES: dict[str, type[EdgeBackbone]] = {"edge": EdgeBackbone}


class CodecModel(nn.Module):
    """Encoder, switchable codebooks, router and decoder.

    Images are float32 RGB (B, 3, S, S) in [0, 1]; latents are (B, T, d) float32.

    Raises:
        CheckpointError: the configuration names an unknown backbone or sizes that do not fit it.
    """

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        if config.backbone not in BACKBONES:
            raise CheckpointError(f"config: backbone {config.backbone!r} is unknown; use one of {sorted(BACKBONES)}")
        backbone = BACKBONES[config.backbone](config.image_size, config.tokens, config.dim, **config.backbone_options)
        self.config = dataclasses.replace(config, backbone_options=backbone.options)
        self.encoder = backbone.encoder
        self.decoder = backbone.decoder
        self.codebooks = SwitchableCodebooks(
            config.groups, config.tokens, config.codes, config.dim, shared=config.books == "shared"
        )
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
