"""Building blocks of the edge backbone: convolution, foldable BatchNorm, ReLU; nothing that quantises badly."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(cin: int, cout: int, kernel: int = 3, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution + BatchNorm (+ ReLU); the BatchNorm folds into the convolution at export."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(cout, momentum=0.02),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class Residual(nn.Module):
    """Two 3x3 convolutions around a skip, (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or channels
        self.body = nn.Sequential(conv_norm(channels, hidden), conv_norm(hidden, channels, relu=False))
        nn.init.zeros_(cast(Tensor, cast(nn.Sequential, self.body[1])[1].weight))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.relu(x + self.body(x)))


class Mixer(nn.Module):
    """Mixes all grid positions, then all channels: aligned faces have their eyes at known positions.

    After Tolstikhin et al. 2021, MLP-Mixer, with ReLU and no LayerNorm; (B, C, G, G) -> (B, C, G, G).
    """

    def __init__(self, channels: int, grid: int, expand: int = 2) -> None:
        super().__init__()
        self.width, self.grid, cells = channels, grid, grid * grid
        self.tokens = nn.Sequential(
            nn.Linear(cells, cells * expand), nn.ReLU(inplace=True), nn.Linear(cells * expand, cells)
        )
        self.channels = nn.Sequential(
            conv_norm(channels, channels * expand, 1), conv_norm(channels * expand, channels, 1, relu=False)
        )
        nn.init.zeros_(cast(Tensor, self.tokens[2].weight))
        nn.init.zeros_(cast(Tensor, cast(nn.Sequential, self.channels[1])[1].weight))

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.tokens(x.reshape(-1, self.width, self.grid * self.grid))  # (B, C, G*G)
        x = x + mixed.reshape(-1, self.width, self.grid, self.grid)  # (B, C, G, G)
        return cast(Tensor, x + self.channels(x))


class Upsample(nn.Module):
    """1x1 convolution and pixel shuffle, (B, C, H, W) -> (B, C', 2H, 2W)."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm(cin, cout * 4, 1), nn.PixelShuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.body(x))


class Smooth(nn.Module):
    """A fixed (1, 2, 1) x (1, 2, 1) low pass, (B, C, H, H) -> (B, C, H, H).

    It takes out exactly the pattern of two pixels that a pixel shuffle can lay over flat areas (Sugawara et al.
    2018, Super-Resolution using Convolutional Neural Networks without Any Checkerboard Artifacts).
    """

    kernel: Tensor
    scale: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(row, row)
        self.channels = channels
        self.register_buffer("kernel", kernel.expand(channels, 1, 3, 3).clone(), persistent=False)
        covered = F.conv2d(torch.ones(1, 1, side, side), kernel[None, None], padding=1)  # less at the borders
        self.register_buffer("scale", 1 / covered, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=self.channels) * self.scale


def lowpass_matrix(size: int, cutoff: float) -> Tensor:
    """A low-pass filter of a row of pixels as a matrix (size, size); `cutoff` is a fraction of the Nyquist frequency.

    Cosine transform (DCT-II), for which a row goes on as its mirror image; gain, a raised cosine from 1 at 0.8 of the
    cutoff to 0 at the cutoff; and back.
    """
    place, order = torch.arange(size, dtype=torch.float64), torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.pi * (place + 0.5) * order[:, None] / size) * (2 / size) ** 0.5  # DCT-II, orthonormal
    basis[0] /= 2**0.5
    gain = 0.5 - 0.5 * torch.cos(torch.pi * ((cutoff - order / size) / (0.2 * cutoff)).clamp(0, 1))
    return cast(Tensor, basis.T @ (gain[:, None] * basis)).float()
