"""The five graphs of a bundle as torch modules: uint8 NHWC RGB in and out.

Codebooks come in as inputs, so that tracing never copies them; `trace` turns these inputs into constants. A backbone's
own module is always the attribute `network`: its nodes are what runs in two bytes at fp16, everything else stays fp32.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ..models.codec import CodecModel
from ..models.trellis import Trellis, rows_at, sets_of


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
    books lie as (T, d, V * K), so that one matrix product per token reads them in order; books that all tokens share
    lie once, as (1, d, V * K). V, sets of books, is M, or fewer with several switches or a memory
    (runtime/switching.py); with a memory the least sum over all walks is found, token by token (models/trellis.py).
    """

    def __init__(self, model: CodecModel) -> None:
        super().__init__()
        config = model.config
        self.tokens, self.sets, self.codes = config.tokens, config.sets, config.codes
        self.switches, self.run = config.switches, config.tokens // config.switches  # S runs of so many tokens
        self.trellis = model.codebooks.trellis

    def forward(self, latents: Tensor, books: Tensor, norms: Tensor) -> tuple[Tensor, Tensor]:
        table = norms * 0.5 - torch.matmul(latents.transpose(0, 1), books)  # (T, B, V*K)
        if self.trellis is not None:
            return self.walk(self.trellis, table)
        table = table.reshape(self.tokens, -1, self.sets, self.codes)  # (T, B, V, K)
        least = table.amin(3)  # (T, B, V)
        if self.switches == 1:
            group = least.sum(0).argmin(1)  # (B,)
            place = group[None, :, None, None].expand(self.tokens, -1, 1, self.codes)
        else:
            digits = least.reshape(self.switches, self.run, -1, self.sets).sum(1).argmin(2)  # (S, B)
            powers = torch.tensor([[float(self.sets**power)] for power in reversed(range(self.switches))])  # (S, 1)
            group = (digits.to(torch.float32) * powers).sum(0)  # (B,), exact: TensorRT 8 sums floats only
            place = digits[:, None, :, None, None].expand(-1, self.run, -1, 1, self.codes).flatten(0, 1)
        chosen = table[:, :, 0] if self.sets == 1 else torch.gather(table, 2, place)[:, :, 0]  # (T, B, K)
        return group.to(torch.int32), chosen.argmin(2).transpose(0, 1).to(torch.int32)

    def walk(self, trellis: Trellis, table: Tensor) -> tuple[Tensor, Tensor]:
        """Group and indices of the cheapest walk by half distances (T, B, V * K)."""
        size = self.codes // trellis.classes
        parts = table.reshape(self.tokens, -1, self.sets, trellis.classes, size)  # set, class, codeword
        group, sets, classes = trellis.search(parts.amin(4))
        place = torch.stack([sets, classes], 2).transpose(0, 1)  # (T, B, 2)
        chosen = rows_at(parts, place)  # (T, B, K / V)
        inside = chosen.argmin(2).transpose(0, 1)  # (B, T)
        indices = classes.to(torch.float32) * size + inside.to(torch.float32)  # TensorRT 8 knows few sums of integers
        return group.to(torch.int32), indices.to(torch.int32)


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
        self.sets, self.switches, self.run = config.sets, config.switches, config.tokens // config.switches
        self.trellis = model.codebooks.trellis

    def forward(self, group: Tensor, indices: Tensor, books: Tensor) -> Tensor:
        indices = indices.to(torch.int64)
        chosen = self.sets_of(group.to(torch.int64), indices)  # (B, 1 or T)
        column = chosen * self.codes + indices  # (B, T)
        if self.shared:
            codes = books[0].transpose(0, 1)[column]  # (B, T, d)
        else:
            place = column.transpose(0, 1)[:, None].expand(-1, self.dim, -1)  # (T, d, B)
            codes = torch.gather(books, 2, place).permute(2, 0, 1)  # (B, T, d)
        image = self.network(codes).clamp(0, 1).mul(255).round()  # (B, 3, S, S)
        return cast(Tensor, image.permute(0, 2, 3, 1).to(torch.uint8))

    def sets_of(self, group: Tensor, indices: Tensor) -> Tensor:
        """The set of books of every token, (B, T), of group (B,), indices (B, T); with one switch the group, (B, 1)."""
        if self.trellis is not None:
            return sets_of(group, indices, self.trellis.register, self.codes)
        group = group[:, None]
        if self.switches == 1:
            return group
        powers = [self.sets**power for power in reversed(range(self.switches))]
        digits = [torch.div(group, power, rounding_mode="trunc") % self.sets for power in powers]
        return torch.cat([digit.expand(-1, self.run) for digit in digits], 1)


def columns(books: Tensor) -> Tensor:
    """Codebooks (V, T, K, d) as (T, d, V * K), codeword k of set v in column v * K + k; T is 1 for shared books."""
    sets, tokens, codes, dim = books.shape
    return books.permute(1, 3, 0, 2).reshape(tokens, dim, sets * codes).contiguous()


def norms_of(books: Tensor) -> Tensor:
    """Squared norms of codebooks (V, T, K, d) as (T, 1, V * K)."""
    return torch.stack([group.square().sum(-1) for group in books], 1).reshape(books.shape[1], 1, -1)
