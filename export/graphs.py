"""The five graphs of a bundle as torch modules: uint8 NHWC RGB in and out.

Codebooks come in as inputs, so that tracing never copies them; `trace` turns these inputs into constants. A backbone's
own module is always the attribute `network`: its nodes are what runs in two bytes at fp16, everything else stays fp32.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..models.codec import CodecModel


class EncoderGraph(nn.Module):
    """image (B, S, S, 3) uint8 -> latents (B, T, d) float32."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.network = model.encoder

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(torch.float32).permute(0, 3, 1, 2) / 255  # (B, 3, S, S)
        return cast(Tensor, self.network(x))


class QuantizerGraph(nn.Module):
    """latents (B, T, d) -> group (B,) int32, indices (B, T) int32: exact nearest-neighbour selection.

    m* = argmin_m sum_t min_k ||z_t - C[m, t, k]||^2 with half distances ||c||^2 / 2 - z.c in float32; ties to the
    lowest index. Halves, because ONNX Runtime takes a factor into the product, which then is slow for one face. The
    books lie as (T, d, M * K), so that one matrix product per token reads them in order; books that all tokens share
    lie once, as (1, d, M * K).
    """

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        config = model.config
        self.tokens, self.groups, self.codes = config.tokens, config.groups, config.codes

    def forward(self, latents: Tensor, books: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        table = norms * 0.5 - torch.matmul(latents.transpose(0, 1), books)  # (T, B, M*K)
        table = table.reshape(self.tokens, -1, self.groups, self.codes)  # (T, B, M, K)
        group = table.amin(3).sum(0).argmin(1)  # (B,)
        if self.groups == 1:
            chosen = table[:, :, 0]  # (T, B, K)
        else:
            place = group[None, :, None, None].expand(self.tokens, -1, 1, self.codes)
            chosen = torch.gather(table, 2, place)[:, :, 0]  # (T, B, K)
        return group.to(torch.int32), chosen.argmin(2).transpose(0, 1).to(torch.int32)


class RouterGraph(nn.Module):
    """latents (B, T, d) -> scores (B, M) float32."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.router = model.router

    def forward(self, latents: Tensor) -> Tensor:
        return cast(Tensor, self.router(latents))


class TokenizerGraph(nn.Module):
    """image -> group, indices: encoder and quantizer in one graph."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.encoder, self.quantizer = EncoderGraph(model), QuantizerGraph(model)

    def forward(self, image: Tensor, books: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.quantizer(self.encoder(image), books, norms))


class DecoderGraph(nn.Module):
    """group (B,) int32, indices (B, T) int32 -> image (B, S, S, 3) uint8.

    The last node makes uint8: TensorRT knows the type at the borders of a graph only.
    """

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        config = model.config
        self.network, self.codes, self.dim = model.decoder, config.codes, config.dim
        self.tokens, self.shared = config.tokens, config.books_per_group == 1

    def forward(self, group: Tensor, indices: Tensor, books: Tensor) -> Tensor:
        column = group[:, None].to(torch.int64) * self.codes + indices.to(torch.int64)  # (B, T)
        if self.shared:
            codes = books[0].transpose(0, 1)[column]  # (B, T, d)
        else:
            place = column.transpose(0, 1)[:, None].expand(-1, self.dim, -1)  # (T, d, B)
            codes = torch.gather(books, 2, place).permute(2, 0, 1)  # (B, T, d)
        image = self.network(codes).clamp(0, 1).mul(255).round()  # (B, 3, S, S)
        return cast(Tensor, image.permute(0, 2, 3, 1).to(torch.uint8))


def columns(books: Tensor) -> Tensor:
    """Codebooks (M, T, K, d) as (T, d, M * K), codeword k of group m in column m * K + k; T is 1 for shared books."""
    groups, tokens, codes, dim = books.shape
    return books.permute(1, 3, 0, 2).reshape(tokens, dim, groups * codes).contiguous()


def norms_of(books: Tensor) -> Tensor:
    """Squared norms of codebooks (M, T, K, d) as (T, 1, M * K)."""
    return torch.stack([group.square().sum(-1) for group in books], 1).reshape(books.shape[1], 1, -1)
