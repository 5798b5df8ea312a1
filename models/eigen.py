"""The `eigen` backbone: tokens are coefficients of whole-face components, found by PCA and trained on.

An aligned face is its mean plus a few hundred components (eigenfaces; Turk and Pentland 1991). Encoder and decoder
start as that transform, of the picture at a quarter of its size, and convolutions learn what it leaves over. So every
token sees the whole face, and its bits go where faces vary, which a grid of equal tokens does not manage.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError
from .edge import STRIDE, EdgeOptions, Painter, Trunk, parse
from .layers import conv_norm, lowpass_matrix

QUARTER = 4  # the transform sees the picture at 1/4


@dataclass(frozen=True)
class EigenOptions(EdgeOptions):
    """`EdgeOptions` of the convolutions, and the channels at 1/16 between them and the tokens.

    `decoder_cutoff`, a fraction of the Nyquist frequency, is that of a low-pass filter on the decoder's picture, which
    has no detail of the face above it; 0 = no filter.
    """

    encoder_channels: int = 24
    decoder_channels: int = 32
    decoder_cutoff: float = 0.0


class Encoder(Trunk):
    """Image (B, 3, S, S) in [0, 1] -> latents (B, T, d), of unit variance on the average over all numbers."""

    rates: ClassVar = {"transform": 1 / 32, "residual": 1 / 16}  # learning rates: these sum over thousands of inputs

    def __init__(self, options: EigenOptions, grid: int, tokens: int, dim: int) -> None:
        super().__init__(options, grid)
        self.token_count, self.dim = tokens, dim
        side = grid * STRIDE // QUARTER
        self.transform = nn.Linear(3 * side * side, tokens * dim)
        self.squeeze = conv_norm(options.encoder_widths[-1], options.encoder_channels, 1)
        self.residual = nn.Linear(options.encoder_channels * grid * grid, tokens * dim, bias=False)
        nn.init.zeros_(self.residual.weight)

    def forward(self, images: Tensor) -> Tensor:
        quarter = F.avg_pool2d(images, QUARTER)  # (B, 3, S/4, S/4)
        found = self.squeeze(self.features(images))  # (B, C, S/16, S/16)
        x = self.transform(quarter.flatten(1)) + self.residual(found.flatten(1))  # (B, T*d)
        return cast(Tensor, x.reshape(-1, self.token_count, self.dim))


class Decoder(Painter):
    """Latents (B, T, d) -> image (B, 3, S, S), about [0, 1] and not clamped."""

    rates: ClassVar = {"transform": 1 / 32, "spread": 1 / 8}
    enlarge: Tensor
    keep: Tensor

    def __init__(self, options: EigenOptions, grid: int, tokens: int, dim: int) -> None:
        super().__init__(options, grid, 3 * QUARTER**2 + options.decoder_channels)
        self.grid, self.side, self.channels = grid, grid * STRIDE // QUARTER, options.decoder_channels
        self.transform = nn.Linear(tokens * dim, 3 * self.side**2)
        self.spread = nn.Linear(tokens * dim, self.channels * grid**2)
        self.look = nn.Conv2d(3, 3 * QUARTER**2, QUARTER, QUARTER)
        self.inject = nn.Conv2d(3, options.decoder_widths[0], 3, padding=1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("enlarge", bicubic(self.side, self.side * QUARTER), persistent=False)  # (S, S/4)
        self.cutoff = options.decoder_cutoff
        if self.cutoff:
            self.register_buffer("keep", lowpass_matrix(grid * STRIDE, self.cutoff), persistent=False)  # (S, S)

    def forward(self, latents: Tensor) -> Tensor:
        flat = latents.flatten(1)  # (B, T*d)
        quarter = self.transform(flat).reshape(-1, 3, self.side, self.side)  # (B, 3, S/4, S/4)
        spread = self.spread(flat).reshape(-1, self.channels, self.grid, self.grid)
        centred = quarter * 2 - 1
        learnt = self.paint(torch.cat([self.look(centred), spread], 1), self.inject(centred))  # (B, 3, S, S)
        image = learnt * 0.5 + self.enlarge @ quarter @ self.enlarge.T
        return cast(Tensor, self.keep @ image @ self.keep.T if self.cutoff else image)


def bicubic(small: int, large: int) -> Tensor:
    """The matrix (large, small) of bicubic interpolation along one axis."""
    rows = F.interpolate(torch.eye(small)[None, None], (large, small), mode="bicubic", align_corners=False)
    return rows[0, 0].contiguous()


class EigenBackbone(nn.Module):
    """Any number of tokens over whole faces of S x S pixels; `options` as for the `edge` backbone and two more.

    Raises:
        CheckpointError: S is not a multiple of 16, or an option is unknown.
    """

    def __init__(self, image_size: int, tokens: int, dim: int, **options: object) -> None:
        super().__init__()
        if image_size % STRIDE:
            raise CheckpointError(f"eigen backbone: image_size {image_size} must be a multiple of {STRIDE}")
        parsed = parse(EigenOptions, options)
        if not 0 <= parsed.decoder_cutoff <= 1:
            raise CheckpointError(f"eigen backbone: decoder_cutoff is {parsed.decoder_cutoff}; give 0 (off) to 1")
        self.options = dataclasses.asdict(parsed)
        self.encoder = Encoder(parsed, image_size // STRIDE, tokens, dim)
        self.decoder = Decoder(parsed, image_size // STRIDE, tokens, dim)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder."""
        return self.encoder, self.decoder
