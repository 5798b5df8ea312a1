"""The `edge` backbone: a convolutional encoder and decoder for embedded CPUs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeVar, cast

from torch import Tensor, nn

from ..errors import CheckpointError
from .config import same_kind
from .layers import Mixer, Residual, Smooth, Upsample, conv_norm

STRIDE = 16
COUNTS = ("blocks", "mixers", "fine")  # how the names of options end that may be 0
Options = TypeVar("Options", bound="EdgeOptions")


@dataclass(frozen=True)
class EdgeOptions:
    """Widths (at 1/4, 1/8, 1/16 of the image) and block counts; see recipes/ for the reference models'.

    `smooth` puts a low pass behind the last two pixel shuffles.
    """

    encoder_stem: int = 32
    encoder_widths: tuple[int, int, int] = (64, 128, 192)
    encoder_blocks: tuple[int, int, int] = (2, 2, 1)
    encoder_mixers: int = 2
    decoder_stem: int = 32
    decoder_widths: tuple[int, int, int] = (64, 128, 256)
    decoder_blocks: tuple[int, int, int] = (3, 2, 1)
    decoder_mixers: int = 3
    decoder_fine: int = 0
    smooth: bool = False


class Trunk(nn.Module):
    """Image (B, 3, S, S) in [0, 1] -> features (B, C, S / 16, S / 16)."""

    def __init__(self, options: EdgeOptions, grid: int) -> None:
        super().__init__()
        widths = (options.encoder_stem, *options.encoder_widths)
        self.stem = conv_norm(3, widths[0], stride=2)
        self.downs = nn.ModuleList(conv_norm(a, b, stride=2) for a, b in pairwise(widths))
        self.blocks = nn.ModuleList(residuals(w, n) for w, n in zip(widths[1:], options.encoder_blocks, strict=True))
        self.mixers = nn.Sequential(*(Mixer(widths[-1], grid) for _ in range(options.encoder_mixers)))

    def features(self, images: Tensor) -> Tensor:
        """Features (B, C, S / 16, S / 16) of images."""
        x = self.stem(images * 2 - 1)  # (B, C, S/2, S/2)
        for down, blocks in zip(self.downs, self.blocks, strict=True):
            x = blocks(down(x))  # S/4, S/8, S/16
        return cast(Tensor, self.mixers(x))


class Encoder(Trunk):
    """Image (B, 3, S, S) in [0, 1] -> latents (B, T, d) of unit variance per latent channel."""

    latent_axes: ClassVar = {
        "head.0.weight": 0,
        "head.1.running_mean": 0,
        "head.1.running_var": 0,
    }  # axis of latent channels

    def __init__(self, options: EdgeOptions, grid: int, per_cell: int, dim: int) -> None:
        super().__init__(options, grid)
        self.cells, self.per_cell, self.dim = grid * grid, per_cell, dim
        latents = per_cell * dim
        self.head = nn.Sequential(
            nn.Conv2d(options.encoder_widths[-1], latents, 1, bias=False),
            nn.BatchNorm2d(latents, affine=False, momentum=0.02),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.head(self.features(images))  # (B, n*d, G, G)
        x = x.reshape(-1, self.per_cell * self.dim, self.cells).transpose(1, 2)  # (B, G*G, n*d)
        return cast(Tensor, x.reshape(-1, self.cells * self.per_cell, self.dim))  # (B, T, d)


class Painter(nn.Module):
    """Features (B, C, S / 16, S / 16) -> image (B, 3, S, S): mixers, residual blocks and pixel shuffles."""

    def __init__(self, options: EdgeOptions, grid: int, channels: int) -> None:
        super().__init__()
        widths = (*reversed(options.decoder_widths), options.decoder_stem)
        counts = (*reversed(options.decoder_blocks), options.decoder_fine)
        self.stem = conv_norm(channels, widths[0], 1)
        self.mixers = nn.Sequential(*(Mixer(widths[0], grid) for _ in range(options.decoder_mixers)))
        self.blocks = nn.ModuleList(residuals(w, n) for w, n in zip(widths, counts, strict=True))
        self.ups = nn.ModuleList(Upsample(a, b) for a, b in pairwise(widths))
        self.head = nn.Sequential(nn.Conv2d(widths[-1], 12, 3, padding=1), nn.PixelShuffle(2))
        if options.smooth:  # the two finest steps: coarser ones have convolutions enough behind them
            cast(Upsample, self.ups[-1]).body.append(Smooth(widths[-1], grid * STRIDE // 2))
            self.head.append(Smooth(3, grid * STRIDE))

    def paint(self, features: Tensor, quarter: Tensor | None = None) -> Tensor:
        """The image, about [-1, 1]; `quarter` (B, C, S / 4, S / 4) is added to the features of its size."""
        x = self.blocks[0](self.mixers(self.stem(features)))  # S/16
        for number, (up, blocks) in enumerate(zip(self.ups, self.blocks[1:], strict=True)):
            x = up(x)
            x = blocks(x + quarter if number == 1 and quarter is not None else x)  # S/8, S/4, S/2
        return cast(Tensor, self.head(x))


class Decoder(Painter):
    """Latents (B, T, d) -> image (B, 3, S, S), about [0, 1] and not clamped."""

    latent_axes: ClassVar = {"stem.0.weight": 1}

    def __init__(self, options: EdgeOptions, grid: int, per_cell: int, dim: int) -> None:
        super().__init__(options, grid, per_cell * dim)
        self.grid, self.channels = grid, per_cell * dim

    def forward(self, latents: Tensor) -> Tensor:
        x = latents.reshape(-1, self.grid * self.grid, self.channels)  # (B, G*G, n*d)
        x = x.transpose(1, 2).reshape(-1, self.channels, self.grid, self.grid)  # (B, n*d, G, G)
        return self.paint(x) * 0.5 + 0.5


def residuals(width: int, count: int) -> nn.Sequential:
    """`count` residual blocks in a row."""
    return nn.Sequential(*(Residual(width) for _ in range(count)))


def parse(kind: type[Options], options: dict[str, Any]) -> Options:
    """Options as their dataclass; lists, as JSON and TOML have them, become tuples.

    Raises:
        CheckpointError: there is no such option, or one is of another kind or length than its default, or too small.
    """
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}
    try:
        made = kind(**values)
    except TypeError as error:
        known = ", ".join(option.name for option in dataclasses.fields(kind))
        raise CheckpointError(f"backbone options: {error}; known: {known}") from error
    for option in dataclasses.fields(made):
        default, value = option.default, getattr(made, option.name)
        parts, wanted = (x if isinstance(x, tuple) else (x,) for x in (value, default))
        fits = type(value) is type(default) or isinstance(default, float)
        if not fits or len(parts) != len(wanted) or not all(map(same_kind, parts, wanted)):
            raise CheckpointError(f"backbone options: {option.name} is {value!r}; give something like {default!r}")
        least = 0 if option.name.endswith(COUNTS) or isinstance(default, float) else 1
        if not isinstance(default, bool) and not all(part >= least for part in parts):
            raise CheckpointError(f"backbone options: {option.name} is {value!r}; give {least} or more")
    return made


class EdgeBackbone(nn.Module):
    """Encoder and decoder over an (S / 16) x (S / 16) grid with T / grid^2 tokens in each cell.

    `options` has all widths and counts in use, so that a checkpoint stays readable when defaults change.

    Raises:
        CheckpointError: S is not a multiple of 16 or T not a multiple of the grid's cells.
    """

    def __init__(self, image_size: int, tokens: int, dim: int, **options: object) -> None:
        super().__init__()
        grid, rest = divmod(image_size, STRIDE)
        per_cell, spare = divmod(tokens, grid * grid) if grid else (0, 1)
        if rest or spare or not per_cell:
            raise CheckpointError(
                f"edge backbone: image_size {image_size} and tokens {tokens} do not fit; "
                f"use a multiple of {STRIDE} and a multiple of (image_size / {STRIDE})^2 tokens"
            )
        parsed = parse(EdgeOptions, options)
        self.options = dataclasses.asdict(parsed)
        self.encoder = Encoder(parsed, grid, per_cell, dim)
        self.decoder = Decoder(parsed, grid, per_cell, dim)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Encoder and decoder."""
        return self.encoder, self.decoder
