"""The five graphs of a bundle as torch modules: uint8 NHWC RGB in and out, codebooks as constants."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..models.codec import CodecModel


class EncoderGraph(nn.Module):
    """image (B, S, S, 3) uint8 -> latents (B, T, d) float32."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, image: Tensor) -> Tensor:
        x = image.to(torch.float32).permute(0, 3, 1, 2) / 255  # (B, 3, S, S)
        return cast(Tensor, self.encoder(x))


class QuantizerGraph(nn.Module):
    """latents (B, T, d) -> group (B,) int32, indices (B, T) int32: exact nearest-neighbour selection.

    m* = argmin_m sum_t min_k ||z_t - C[m, t, k]||^2 with distances ||c||^2 - 2 z.c in float32; ties to the
    lowest index. The books lie as (T, d, M * K), so that one matrix product per token reads them in order.
    """

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        config = model.config
        self.tokens, self.groups, self.codes = config.tokens, config.groups, config.codes
        books = model.codebooks.full().detach()  # (M, T, K, d)
        self.books = nn.Parameter(columns(books), requires_grad=False)
        norms = books.square().sum(-1).transpose(0, 1).reshape(config.tokens, 1, -1)  # (T, 1, M*K)
        self.norms = nn.Parameter(norms.contiguous(), requires_grad=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        table = self.norms - 2 * torch.matmul(latents.transpose(0, 1), self.books)  # (T, B, M*K)
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

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.quantizer(self.encoder(image)))


class DecoderGraph(nn.Module):
    """group (B,) int32, indices (B, T) int32 -> image (B, S, S, 3) uint8."""

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        self.decoder, self.codes, self.dim = model.decoder, model.config.codes, model.config.dim
        self.books = nn.Parameter(columns(model.codebooks.full().detach()), requires_grad=False)

    def forward(self, group: Tensor, indices: Tensor) -> Tensor:
        column = group[:, None].to(torch.int64) * self.codes + indices.to(torch.int64)  # (B, T)
        place = column.transpose(0, 1)[:, None].expand(-1, self.dim, -1)  # (T, d, B)
        codes = torch.gather(self.books, 2, place).permute(2, 0, 1)  # (B, T, d)
        image = self.decoder(codes).clamp(0, 1).mul(255).round()  # (B, 3, S, S)
        return cast(Tensor, image.to(torch.uint8).permute(0, 2, 3, 1))


def columns(books: Tensor) -> Tensor:
    """Codebooks (M, T, K, d) as (T, d, M * K), codeword k of group m in column m * K + k."""
    groups, tokens, codes, dim = books.shape
    return books.permute(1, 3, 0, 2).reshape(tokens, dim, groups * codes).contiguous()
