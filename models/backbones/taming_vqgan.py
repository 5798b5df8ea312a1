"""Taming-transformers VQGAN: convolutions with attention on coarse grids (Esser et al. 2021, arXiv 2012.09841).

Module tree and arithmetic of CompVis/taming-transformers (MIT), with nearest-neighbour codebooks; the f8 Gumbel models
choose their tokens from logits, not from distances, and cannot be used. Images in [-1, 1] inside, [0, 1] outside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Pretrained, Shapes, count, fits, parse
from .layers import (
    Codebook,
    Downsample,
    GridAttention,
    GroupNorm,
    ResidualBlock,
    Upsample,
    check_grid,
    grid_of,
    tokens_of,
)

NAME = "taming_vqgan"


@dataclass(frozen=True)
class TamingOptions:
    """The published configuration's ch, ch_mult, num_res_blocks, attn_resolutions, z_channels and n_embed."""

    channels: int = 128
    mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    z_channels: int = 256
    codes: int = 1024


class Level(nn.Module):
    """One resolution: residual blocks, each followed by attention or not, then a change of size or not."""

    def __init__(self, widths: list[int], attention: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(a, b, "nin_shortcut") for a, b in pairwise(widths))
        self.attn = nn.ModuleList(GridAttention(width) for width in widths[1:] if attention)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        change = self.downsample or self.upsample
        return x if change is None else cast(Tensor, change(x))


class Middle(nn.Module):
    """Residual block, attention, residual block on the coarsest grid."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width, "nin_shortcut")
        self.attn_1 = GridAttention(width)
        self.block_2 = ResidualBlock(width, width, "nin_shortcut")

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.block_2(self.attn_1(self.block_1(x))))


class Encoder(nn.Module):
    """Images (B, 3, S, S) in [-1, 1] -> grid (B, z, G, G)."""

    def __init__(self, options: TamingOptions, image_size: int) -> None:
        super().__init__()
        widths = [options.channels, *(options.channels * m for m in options.mult)]
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        for number, (before, width) in enumerate(pairwise(widths)):
            level = Level([before] + [width] * options.blocks, image_size >> number in options.attention)
            if number < len(options.mult) - 1:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = Middle(widths[-1])
        self.norm_out = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], options.z_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(self.mid(x)))))


class Decoder(nn.Module):
    """Grid (B, z, G, G) -> images (B, 3, S, S), about [-1, 1]; one residual block more per level than the encoder."""

    def __init__(self, options: TamingOptions, image_size: int) -> None:
        super().__init__()
        widths = [options.channels * m for m in options.mult]
        self.conv_in = nn.Conv2d(options.z_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        self.up = nn.ModuleList()
        for number, (before, width) in enumerate(zip([*widths[1:], widths[-1]], widths, strict=True)):
            level = Level([before] + [width] * (options.blocks + 1), image_size >> number in options.attention)
            if number:
                level.upsample = Upsample(width)
            self.up.append(level)
        self.norm_out = GroupNorm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, grid: Tensor) -> Tensor:
        x = self.mid(self.conv_in(grid))
        for number in reversed(range(len(self.up))):
            x = self.up[number](x)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(x))))


class EncoderHalf(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> latents (B, T, d)."""

    def __init__(self, encoder: Encoder, quant_conv: nn.Conv2d) -> None:
        super().__init__()
        self.encoder, self.quant_conv = encoder, quant_conv

    def forward(self, images: Tensor) -> Tensor:
        return tokens_of(self.quant_conv(self.encoder(images * 2 - 1)))


class DecoderHalf(nn.Module):
    """Codes (B, T, d) -> images (B, 3, S, S), about [0, 1]."""

    def __init__(self, decoder: Decoder, post_quant_conv: nn.Conv2d, side: int) -> None:
        super().__init__()
        self.decoder, self.post_quant_conv, self.side = decoder, post_quant_conv, side

    def forward(self, codes: Tensor) -> Tensor:
        return cast(Tensor, self.decoder(self.post_quant_conv(grid_of(codes, self.side)))) * 0.5 + 0.5


class TamingVqgan(Pretrained):
    """Taming VQGAN with official state-dict keys; the losses that a .ckpt holds as well are left out."""

    FIELDS: ClassVar[dict[str, Any]] = {"image_size": 256, "tokens": 256, "codes": 1024, "dim": 256}
    IGNORED: ClassVar[tuple[str, ...]] = ("loss.",)

    def __init__(self, image_size: int, tokens: int, dim: int, **options: Any) -> None:
        super().__init__()
        parsed = parse(TamingOptions, NAME, options)
        self.side = check_grid(NAME, image_size, tokens, parsed.channels, parsed.mult)
        fits(NAME, parsed.blocks > 0, "blocks must be at least 1")
        self.options = dataclasses.asdict(parsed)
        self.encoder, self.decoder = Encoder(parsed, image_size), Decoder(parsed, image_size)
        self.quantize = Codebook(parsed.codes, dim)
        self.quant_conv = nn.Conv2d(parsed.z_channels, dim, 1)
        self.post_quant_conv = nn.Conv2d(dim, parsed.z_channels, 1)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        return EncoderHalf(self.encoder, self.quant_conv), DecoderHalf(self.decoder, self.post_quant_conv, self.side)

    @classmethod
    def sizes(cls, shapes: Shapes, image_size: int) -> dict[str, Any]:
        codes, dim = shapes["quantize.embedding.weight"]
        levels = count(shapes, "encoder.down.")
        channels = shapes["encoder.conv_in.weight"][0]
        options = {
            "channels": channels,
            "mult": [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] // channels for i in range(levels)],
            "blocks": count(shapes, "encoder.down.0.block."),
            "attention": list(_attention(shapes, levels, image_size)),
            "z_channels": shapes["quant_conv.weight"][1],
            "codes": codes,
        }
        tokens = (image_size >> (levels - 1)) ** 2
        return {"codes": codes, "dim": dim, "tokens": tokens, "backbone_options": options}


def _attention(shapes: Shapes, levels: int, image_size: int) -> Iterator[int]:
    """Sides of the grids with attention."""
    for number in range(levels):
        if f"encoder.down.{number}.attn.0.q.weight" in shapes:
            yield image_size >> number
