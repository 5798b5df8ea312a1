"""MaskGIT-VQGAN: a convolutional tokenizer without attention (Chang et al. 2022, arXiv 2202.04200).

Module tree and arithmetic of the PyTorch port that the 1d-tokenizer project (Apache-2.0) distributes weights for.
Images in [0, 1], 256 x 256 -> 16 x 16 tokens of 256 numbers, 1024 codewords.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Pretrained, Shapes, count, parse
from .layers import Codebook, GroupNorm, check_grid, double, grid_of, tokens_of

NAME = "maskgit_vqgan"


@dataclass(frozen=True)
class MaskGitOptions:
    """Width of the first level, multiples of it at the others, blocks per level, rows of the official codebook."""

    channels: int = 128
    mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    blocks: int = 2
    codes: int = 1024


def conv3(cin: int, cout: int, bias: bool = False) -> nn.Conv2d:
    """3x3 convolution that keeps the size."""
    return nn.Conv2d(cin, cout, 3, padding=1, bias=bias)


class Block(nn.Module):
    """Residual block whose skip, where the width changes, is a 1x1 convolution of the block's own output.

    That drops the input there; the released weights were trained so.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(cin), conv3(cin, cout)
        self.norm2, self.conv2 = GroupNorm(cout), conv3(cout, cout)
        self.nin_shortcut = nn.Conv2d(cout, cout, 1, bias=False) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return cast(Tensor, y + (x if self.nin_shortcut is None else self.nin_shortcut(y)))


def row(cin: int, cout: int, blocks: int) -> nn.ModuleList:
    """Blocks in a row, the first of which changes the width."""
    return nn.ModuleList(Block(cin if i == 0 else cout, cout) for i in range(blocks))


class Level(nn.Module):
    """One resolution: residual blocks, then half or double the size, or neither at the end."""

    def __init__(self, cin: int, cout: int, blocks: int, up: bool = False) -> None:
        super().__init__()
        self.block = row(cin, cout, blocks)
        self.upsample_conv = conv3(cout, cout, bias=True) if up else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.block:
            x = block(x)
        return x if self.upsample_conv is None else cast(Tensor, self.upsample_conv(double(x)))


class Encoder(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> grid (B, d, G, G)."""

    def __init__(self, options: MaskGitOptions, dim: int) -> None:
        super().__init__()
        widths = [options.channels, *(options.channels * m for m in options.mult)]
        self.conv_in = conv3(3, widths[0])
        self.down = nn.ModuleList(Level(a, b, options.blocks) for a, b in pairwise(widths))
        self.mid = row(widths[-1], widths[-1], options.blocks)
        self.norm_out = GroupNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv_in(images)
        for number, level in enumerate(self.down):
            x = level(x if number == 0 else F.avg_pool2d(x, 2))
        for block in self.mid:
            x = block(x)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(x))))


class Decoder(nn.Module):
    """Grid (B, d, G, G) -> images (B, 3, S, S), about [0, 1]."""

    def __init__(self, options: MaskGitOptions, dim: int) -> None:
        super().__init__()
        widths = [options.channels * m for m in options.mult]
        self.conv_in = conv3(dim, widths[-1], bias=True)
        self.mid = row(widths[-1], widths[-1], options.blocks)
        above = [*widths[1:], widths[-1]]  # width that a level gets from the coarser one
        self.up = nn.ModuleList(
            Level(a, b, options.blocks, up=number > 0) for number, (a, b) in enumerate(zip(above, widths, strict=True))
        )
        self.norm_out = GroupNorm(widths[0])
        self.conv_out = conv3(widths[0], 3, bias=True)

    def forward(self, grid: Tensor) -> Tensor:
        x = self.conv_in(grid)
        for block in self.mid:
            x = block(x)
        for number in reversed(range(len(self.up))):
            x = self.up[number](x)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(x))))


class EncoderHalf(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> latents (B, T, d)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return tokens_of(self.encoder(images))


class DecoderHalf(nn.Module):
    """Codes (B, T, d) -> images (B, 3, S, S)."""

    def __init__(self, decoder: Decoder, side: int) -> None:
        super().__init__()
        self.decoder, self.side = decoder, side

    def forward(self, codes: Tensor) -> Tensor:
        return cast(Tensor, self.decoder(grid_of(codes, self.side)))


class MaskGitVqgan(Pretrained):
    """MaskGIT-VQGAN with official state-dict keys."""

    FIELDS: ClassVar[dict[str, Any]] = {"image_size": 256, "tokens": 256, "codes": 1024, "dim": 256}

    def __init__(self, image_size: int, tokens: int, dim: int, **options: Any) -> None:
        super().__init__()
        parsed = parse(MaskGitOptions, NAME, options)
        self.side = check_grid(NAME, image_size, tokens, parsed.channels, parsed.mult)
        self.options = dataclasses.asdict(parsed)
        self.encoder, self.decoder = Encoder(parsed, dim), Decoder(parsed, dim)
        self.quantize = Codebook(parsed.codes, dim)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        return EncoderHalf(self.encoder), DecoderHalf(self.decoder, self.side)

    @classmethod
    def sizes(cls, shapes: Shapes, image_size: int) -> dict[str, Any]:
        codes, dim = shapes["quantize.embedding.weight"]
        options = decoder_sizes(shapes, "decoder.") | {"codes": codes}
        tokens = (image_size >> (len(options["mult"]) - 1)) ** 2
        return {"codes": codes, "dim": dim, "tokens": tokens, "backbone_options": options}


def decoder_sizes(shapes: Shapes, prefix: str) -> dict[str, Any]:
    """Options of a decoder (TiTok has one too) whose names begin with `prefix`; the first multiple is always 1."""
    levels = count(shapes, f"{prefix}up.")
    widths = [shapes[f"{prefix}up.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    mult = [width // widths[0] for width in widths]
    return {"channels": widths[0], "mult": mult, "blocks": count(shapes, f"{prefix}mid.")}
