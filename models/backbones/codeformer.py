"""CodeFormer's face tokenizer: the VQGAN of its first training stage (Zhou et al. 2022, arXiv 2206.11253).

Module tree and arithmetic of sczhou/CodeFormer, whose licence is non-commercial: users bring their own weights.
512 x 512 faces in [-1, 1] inside, [0, 1] outside -> 16 x 16 tokens of 256 numbers, 1024 codewords.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

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

NAME = "codeformer"


@dataclass(frozen=True)
class CodeFormerOptions:
    """The published configuration's nf, ch_mult, res_blocks, attn_resolutions and codebook_size."""

    channels: int = 64
    mult: tuple[int, ...] = (1, 2, 2, 4, 4, 8)
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    codes: int = 1024


def residual(cin: int, cout: int) -> ResidualBlock:
    """A residual block under CodeFormer's name for the skip."""
    return ResidualBlock(cin, cout, "conv_out")


def middle(width: int) -> list[nn.Module]:
    """Residual block, attention, residual block on the coarsest grid."""
    return [residual(width, width), GridAttention(width), residual(width, width)]


def level(cin: int, cout: int, blocks: int, attention: bool) -> list[nn.Module]:
    """Residual blocks of one resolution, each followed by attention or not."""
    layers: list[nn.Module] = []
    for number in range(blocks):
        layers.append(residual(cin if number == 0 else cout, cout))
        layers += [GridAttention(cout)] if attention else []
    return layers


class Chain(nn.Module):
    """Layers one after another under the flat names `blocks.0`, `blocks.1`, ...; the norm is followed by nothing."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def encoder(options: CodeFormerOptions, image_size: int, dim: int) -> Chain:
    """Images (B, 3, S, S) in [-1, 1] -> grid (B, d, G, G)."""
    widths = [options.channels, *(options.channels * m for m in options.mult)]
    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1)]
    for number, (before, width) in enumerate(pairwise(widths)):
        layers += level(before, width, options.blocks, image_size >> number in options.attention)
        layers += [Downsample(width)] if number < len(options.mult) - 1 else []
    layers += [*middle(widths[-1]), GroupNorm(widths[-1]), nn.Conv2d(widths[-1], dim, 3, padding=1)]
    return Chain(layers)


def generator(options: CodeFormerOptions, image_size: int, dim: int) -> Chain:
    """Grid (B, d, G, G) -> images (B, 3, S, S), about [-1, 1]."""
    widths = [options.channels * m for m in options.mult]
    layers: list[nn.Module] = [nn.Conv2d(dim, widths[-1], 3, padding=1), *middle(widths[-1])]
    for number in reversed(range(len(widths))):
        before = widths[min(number + 1, len(widths) - 1)]
        layers += level(before, widths[number], options.blocks, image_size >> number in options.attention)
        layers += [Upsample(widths[number])] if number else []
    return Chain([*layers, GroupNorm(widths[0]), nn.Conv2d(widths[0], 3, 3, padding=1)])


class EncoderHalf(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> latents (B, T, d)."""

    def __init__(self, encoder: Chain) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> Tensor:
        return tokens_of(self.encoder(images * 2 - 1))


class DecoderHalf(nn.Module):
    """Codes (B, T, d) -> images (B, 3, S, S), about [0, 1]."""

    def __init__(self, generator: Chain, side: int) -> None:
        super().__init__()
        self.generator, self.side = generator, side

    def forward(self, codes: Tensor) -> Tensor:
        image: Tensor = self.generator(grid_of(codes, self.side))
        return image * 0.5 + 0.5


class CodeFormer(Pretrained):
    """CodeFormer's VQGAN with official state-dict keys.

    The later stages' transformer and fusion, which a restoration checkpoint holds as well, are left out. Its encoder
    was then trained to feed that transformer, so for a codec use the first stage's weights.
    """

    FIELDS: ClassVar[dict[str, Any]] = {"image_size": 512, "tokens": 256, "codes": 1024, "dim": 256}
    IGNORED: ClassVar[tuple[str, ...]] = (
        "position_emb",
        "feat_emb.",
        "ft_layers.",
        "idx_pred_layer.",
        "fuse_convs_dict.",
    )

    def __init__(self, image_size: int, tokens: int, dim: int, **options: Any) -> None:
        super().__init__()
        parsed = parse(CodeFormerOptions, NAME, options)
        self.side = check_grid(NAME, image_size, tokens, parsed.channels, parsed.mult)
        fits(NAME, parsed.blocks > 0, "blocks must be at least 1")
        self.options = dataclasses.asdict(parsed)
        self.encoder, self.generator = encoder(parsed, image_size, dim), generator(parsed, image_size, dim)
        self.quantize = Codebook(parsed.codes, dim)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        return EncoderHalf(self.encoder), DecoderHalf(self.generator, self.side)

    @classmethod
    def sizes(cls, shapes: Shapes, image_size: int) -> dict[str, Any]:
        codes, dim = shapes["quantize.embedding.weight"]
        channels = shapes["encoder.blocks.0.weight"][0]
        mult, blocks, attention, size = [], 0, [], image_size
        for number in range(1, count(shapes, "encoder.blocks.") - 5):  # the last five: middle, norm, convolution
            name = f"encoder.blocks.{number}."
            if name + "conv.weight" in shapes:
                mult.append(shapes[name + "conv.weight"][0] // channels)
                size //= 2
            elif name + "q.weight" in shapes:
                attention.append(size)
            elif not mult:
                blocks += 1
        mult.append(shapes[f"encoder.blocks.{count(shapes, 'encoder.blocks.') - 2}.weight"][0] // channels)
        options = {"channels": channels, "mult": mult, "blocks": blocks, "attention": sorted(set(attention))}
        tokens = (image_size >> (len(mult) - 1)) ** 2
        return {"codes": codes, "dim": dim, "tokens": tokens, "backbone_options": options | {"codes": codes}}
