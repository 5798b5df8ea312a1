"""Layers that several published tokenizers share. Norms and softmax compute in float32 whatever the weights are."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .base import fits

GROUPS = 32


class GroupNorm(nn.GroupNorm):
    """GroupNorm with 32 groups and eps 1e-6: in half precision a sum over 131,072 activations would overflow."""

    def __init__(self, channels: int) -> None:
        super().__init__(GROUPS, channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """LayerNorm over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


def softmax(x: Tensor, axis: int) -> Tensor:
    """Softmax in float32."""
    return x.float().softmax(axis).to(x.dtype)


def unit(x: Tensor) -> Tensor:
    """Vectors of the last axis at length 1, computed and returned in float32."""
    return F.normalize(x.float(), dim=-1)


class GridAttention(nn.Module):
    """One-head self-attention over the cells of a grid, (B, C, H, W) -> (B, C, H, W), with a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))
        self.scale = channels**-0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2) for layer in (self.q, self.k, self.v))  # (B, C, H*W)
        # scaled before the product: half precision has no room for the sum of 512 products
        weights = softmax((q * self.scale).transpose(1, 2) @ k, -1)  # (B, H*W to, H*W from)
        mixed = v @ weights.transpose(1, 2)  # (B, C, H*W)
        result: Tensor = x + self.proj_out(mixed.reshape(x.shape))
        return result


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, and a skip that gets a 1x1 convolution where the width changes.

    Args:
        shortcut: the name of that convolution, which the implementations disagree on.
    """

    def __init__(self, cin: int, cout: int, shortcut: str) -> None:
        super().__init__()
        self.norm1 = GroupNorm(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
        self.norm2 = GroupNorm(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
        self.shortcut = shortcut if cin != cout else None
        if self.shortcut:
            self.add_module(self.shortcut, nn.Conv2d(cin, cout, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        skip: Tensor = self.get_submodule(self.shortcut)(x) if self.shortcut else x
        result: Tensor = y + skip
        return result


class Downsample(nn.Module):
    """3x3 convolution of stride 2 after one row of zeros below and one column on the right."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return result


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(double(x))
        return result


def double(x: Tensor) -> Tensor:
    """Every pixel four times: (B, C, H, W) -> (B, C, 2H, 2W)."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def tokens_of(grid: Tensor) -> Tensor:
    """(B, d, G, G) -> (B, G*G, d), row by row."""
    return grid.flatten(2).transpose(1, 2)


def grid_of(tokens: Tensor, side: int) -> Tensor:
    """(B, G*G, d) -> (B, d, G, G)."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], side, side)


def check_grid(name: str, image_size: int, tokens: int, channels: int, mult: Sequence[int]) -> int:
    """The side of the token grid of a convolutional tokenizer.

    Raises:
        CheckpointError: image size and tokens do not fit the number of levels, or widths the groups of GroupNorm.
    """
    stride = 1 << (len(mult) - 1)
    side = image_size // stride
    fits(
        name,
        image_size % stride == 0 and side * side == tokens,
        f"image_size {image_size} at stride {stride} gives {side * side} tokens, not {tokens}",
    )
    fits(name, channels % GROUPS == 0, f"channels is {channels}; it must be a multiple of {GROUPS}")
    return side


class Codebook(nn.Module):
    """A tokenizer's own codebook under its official name, `embedding.weight` (K, d)."""

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / codes, 1 / codes)
