"""TiTok: an image as a short row of tokens, by transformers (Yu et al. 2024, arXiv 2406.07550).

Module tree and arithmetic of bytedance/1d-tokenizer (Apache-2.0). S-128, B-64 and L-32 were released with `legacy`:
their decoder predicts the tokens of MaskGIT-VQGAN, softly, and that one's decoder paints the pixels; later ones predict
pixels themselves.
Images in [0, 1]; 256 x 256 -> 128, 64 or 32 tokens of 12 numbers and length 1, 4096 codewords.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from . import maskgit_vqgan
from .base import Pretrained, Shapes, count, fits, parse
from .layers import Codebook, LayerNorm, grid_of, softmax, unit

NAME = "titok"
HEAD = 64  # numbers per attention head in every released size


@dataclass(frozen=True)
class TiTokOptions:
    """Sizes of the two transformers and what stands around them; the defaults are S-128's.

    Attributes:
        width, layers, heads: of the encoder (S 512 / 8 / 8, B 768 / 12 / 12, L 1024 / 24 / 16).
        decoder_width, decoder_layers, decoder_heads: of the decoder.
        patch: side of an image patch in pixels.
        codes: rows of the official codebook.
        l2_norm: latents and codewords are compared and handed on at length 1.
        legacy: the released S-128, B-64, L-32: the handling of latents described at `Encoder`, and the pixel decoder.
        pixel_codes, pixel_dim: rows and width of the table that the legacy decoder's softmax looks up.
        pixel_channels, pixel_mult, pixel_blocks: of the MaskGIT-VQGAN decoder behind it.
    """

    width: int = 512
    layers: int = 8
    heads: int = 8
    decoder_width: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 8
    patch: int = 16
    codes: int = 4096
    l2_norm: bool = True
    legacy: bool = True
    pixel_codes: int = 1024
    pixel_dim: int = 256
    pixel_channels: int = 128
    pixel_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    pixel_blocks: int = 2


class Attention(nn.Module):
    """Multi-head self-attention (B, L, W) -> (B, L, W) under the names of `nn.MultiheadAttention`.

    Written out, so that it exports as plain matrix products with the softmax in float32.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, x: Tensor) -> Tensor:
        qkv = nn.functional.linear(x, self.in_proj_weight, self.in_proj_bias)  # (B, L, 3 W)
        qkv = qkv.reshape(-1, x.shape[1], 3, self.heads, self.size).permute(2, 0, 3, 1, 4)  # (3, B, heads, L, size)
        q, k, v = qkv[0] * self.size**-0.5, qkv[1], qkv[2]
        mixed = softmax(q @ k.transpose(-2, -1), -1) @ v  # (B, heads, L, size)
        mixed = mixed.transpose(1, 2).reshape(-1, x.shape[1], self.heads * self.size)
        return cast(Tensor, self.out_proj(mixed))


class Block(nn.Module):
    """Transformer block with norms before attention and MLP, (B, L, W) -> (B, L, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = LayerNorm(width), Attention(width, heads), LayerNorm(width)
        mlp = {"c_fc": nn.Linear(width, 4 * width), "gelu": nn.GELU(), "c_proj": nn.Linear(4 * width, width)}
        self.mlp = nn.Sequential(OrderedDict(mlp))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return cast(Tensor, x + self.mlp(self.ln_2(x)))


def learned(*shape: int) -> nn.Parameter:
    """An embedding of the released initialisation's scale."""
    return nn.Parameter(torch.randn(*shape) * shape[-1] ** -0.5)


class Transformer(nn.Module):
    """What encoder and decoder share: embeddings, norms and blocks over [class, G*G patches, T latents]."""

    def __init__(self, width: int, layers: int, heads: int, cells: int, tokens: int) -> None:
        super().__init__()
        self.cells = cells
        self.class_embedding = learned(1, width)
        self.positional_embedding = learned(cells + 1, width)
        self.latent_token_positional_embedding = learned(tokens, width)
        self.ln_pre, self.ln_post = LayerNorm(width), LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def run(self, patches: Tensor, latents: Tensor) -> Tensor:
        """Patches (B, G*G, W) and latents (B, T, W) -> all positions (B, 1 + G*G + T, W) before ln_post."""
        first = self.class_embedding.expand(patches.shape[0], -1, -1)
        image = torch.cat([first, patches], 1) + self.positional_embedding
        x = self.ln_pre(torch.cat([image, latents + self.latent_token_positional_embedding], 1))
        for block in self.transformer:
            x = block(x)
        return cast(Tensor, x)


class Encoder(Transformer):
    """Images (B, 3, S, S) in [0, 1] and latent tokens (T, W) -> latents (B, T, d).

    The legacy form reads the (T, W) outputs of each image as if they were stored (W, T): a plain reshape, no
    transposition, so a latent mixes channels of several tokens. The released weights were trained so.
    """

    def __init__(self, options: TiTokOptions, cells: int, tokens: int, dim: int) -> None:
        super().__init__(options.width, options.layers, options.heads, cells, tokens)
        self.legacy = options.legacy
        self.patch_embed = nn.Conv2d(3, options.width, options.patch, options.patch)
        self.conv_out = nn.Conv2d(options.width, dim, 1)

    def forward(self, images: Tensor, latent_tokens: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, G*G, W)
        x = self.run(patches, latent_tokens.expand(patches.shape[0], -1, -1))
        x = self.ln_post(x[:, 1 + self.cells :])  # (B, T, W)
        tokens, width = latent_tokens.shape
        x = x.reshape(-1, width, tokens, 1) if self.legacy else x.transpose(1, 2)[..., None]  # (B, W, T, 1)
        return cast(Tensor, self.conv_out(x)[..., 0].transpose(1, 2))


class Decoder(Transformer):
    """Codes (B, T, d) -> logits (B, pixel_codes, G, G), or images (B, 3, S, S) when not legacy."""

    def __init__(self, options: TiTokOptions, cells: int, tokens: int, dim: int) -> None:
        width, patch = options.decoder_width, options.patch
        super().__init__(width, options.decoder_layers, options.decoder_heads, cells, tokens)
        self.side = round(cells**0.5)
        self.patch = patch
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = learned(1, 1, width)
        if options.legacy:
            self.ffn = nn.Sequential(
                nn.Conv2d(width, 2 * width, 1), nn.Tanh(), nn.Conv2d(2 * width, options.pixel_codes, 1)
            )
            self.conv_out: nn.Module = nn.Identity()
        else:
            self.ffn = nn.Sequential(nn.Conv2d(width, 3 * patch * patch, 1), Unpatch(patch))
            self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        latents = self.decoder_embed(codes)  # (B, T, W)
        x = self.run(self.mask_token.expand(latents.shape[0], self.cells, -1), latents)
        x = self.ln_post(x[:, 1 : 1 + self.cells])  # (B, G*G, W)
        return cast(Tensor, self.conv_out(self.ffn(grid_of(x, self.side))))


class Unpatch(nn.Module):
    """(B, p*p*3, G, G), colour fastest -> (B, 3, p*G, p*G)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Tensor) -> Tensor:
        patch, side = self.patch, x.shape[2]
        x = x.reshape(-1, patch, patch, 3, side, side).permute(0, 3, 4, 1, 5, 2)  # (B, 3, G, p, G, p)
        return x.reshape(-1, 3, side * patch, side * patch)


class EncoderHalf(nn.Module):
    """Images (B, 3, S, S) in [0, 1] -> latents (B, T, d) of length 1 each."""

    def __init__(self, encoder: Encoder, latent_tokens: nn.Parameter, l2_norm: bool) -> None:
        super().__init__()
        self.encoder, self.latent_tokens, self.l2_norm = encoder, latent_tokens, l2_norm

    def forward(self, images: Tensor) -> Tensor:
        latents: Tensor = self.encoder(images, self.latent_tokens)
        return unit(latents) if self.l2_norm else latents


class DecoderHalf(nn.Module):
    """Codes (B, T, d), brought to length 1 as the official lookup does -> images (B, 3, S, S)."""

    def __init__(self, decoder: Decoder, l2_norm: bool, table: Codebook | None, pixels: nn.Module | None) -> None:
        super().__init__()
        self.decoder, self.l2_norm = decoder, l2_norm
        self.pixel_quantize, self.pixel_decoder = table, pixels

    def forward(self, codes: Tensor) -> Tensor:
        dtype = self.decoder.mask_token.dtype
        x: Tensor = self.decoder(unit(codes).to(dtype) if self.l2_norm else codes)
        if self.pixel_quantize is None or self.pixel_decoder is None:
            return x
        weights = softmax(x.flatten(2).transpose(1, 2), -1)  # (B, G*G, pixel_codes)
        mixed = weights @ self.pixel_quantize.embedding.weight  # (B, G*G, pixel_dim): soft, no argmax
        return cast(Tensor, self.pixel_decoder(grid_of(mixed, self.decoder.side)))


class TiTok(Pretrained):
    """TiTok with official state-dict keys."""

    FIELDS: ClassVar[dict[str, Any]] = {"image_size": 256, "tokens": 128, "codes": 4096, "dim": 12}

    def __init__(self, image_size: int, tokens: int, dim: int, **options: Any) -> None:
        super().__init__()
        o = parse(TiTokOptions, NAME, options)
        fits(NAME, image_size % o.patch == 0, f"image_size {image_size} is no multiple of the patch's {o.patch}")
        fits(NAME, o.width % o.heads == 0 == o.decoder_width % o.decoder_heads, "heads must divide the width")
        stride = 1 << (len(o.pixel_mult) - 1)
        fits(NAME, not o.legacy or stride == o.patch, f"pixel_mult doubles to {stride}, the patch is {o.patch}")
        self.options = dataclasses.asdict(o)
        cells = (image_size // o.patch) ** 2
        self.latent_tokens = learned(tokens, o.width)
        self.encoder, self.decoder = Encoder(o, cells, tokens, dim), Decoder(o, cells, tokens, dim)
        self.quantize = Codebook(o.codes, dim)
        self.pixel_quantize = Codebook(o.pixel_codes, o.pixel_dim) if o.legacy else None
        painter = maskgit_vqgan.MaskGitOptions(o.pixel_channels, o.pixel_mult, o.pixel_blocks)
        self.pixel_decoder = maskgit_vqgan.Decoder(painter, o.pixel_dim) if o.legacy else None

    def halves(self) -> tuple[nn.Module, nn.Module]:
        l2_norm = self.options["l2_norm"]
        encoder = EncoderHalf(self.encoder, self.latent_tokens, l2_norm)
        return encoder, DecoderHalf(self.decoder, l2_norm, self.pixel_quantize, self.pixel_decoder)

    def codebook(self) -> Tensor:
        return unit(super().codebook()) if self.options["l2_norm"] else super().codebook()

    @classmethod
    def sizes(cls, shapes: Shapes, image_size: int) -> dict[str, Any]:
        codes, dim = shapes["quantize.embedding.weight"]
        tokens, width = shapes["latent_tokens"]
        wide, patch = shapes["decoder.decoder_embed.weight"][0], shapes["encoder.patch_embed.weight"][2]
        legacy = "decoder.conv_out.weight" not in shapes
        options: dict[str, Any] = {"width": width, "layers": count(shapes, "encoder.transformer."), "patch": patch}
        options |= {"heads": max(1, width // HEAD), "codes": codes, "legacy": legacy, "l2_norm": legacy}
        options |= {"decoder_width": wide, "decoder_layers": count(shapes, "decoder.transformer.")}
        options |= {"decoder_heads": max(1, wide // HEAD)}
        if legacy:
            painter = maskgit_vqgan.decoder_sizes(shapes, "pixel_decoder.")
            options |= {f"pixel_{name}": value for name, value in painter.items()}
            options["pixel_codes"], options["pixel_dim"] = shapes["pixel_quantize.embedding.weight"]
        side = round((shapes["encoder.positional_embedding"][0] - 1) ** 0.5)
        fields = {"image_size": side * patch, "tokens": tokens, "codes": codes, "dim": dim}
        return fields | {"backbone_options": options}
