"""Switchable token-specific codebooks: choose a group, quantise each token with its own book."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Quantized:
    """What quantising a batch of latents gives.

    Attributes:
        group: (B,) int64, the chosen codebook group.
        indices: (B, T) int64, the chosen codeword of every token.
        codes: (B, T, d) float32, the chosen codewords; gradients pass straight through to the latents.
        error: (B,) float32, sum over tokens of the squared distance, with gradients to both sides.
    """

    group: Tensor
    indices: Tensor
    codes: Tensor
    error: Tensor


class SwitchableCodebooks(nn.Module):
    """M groups of T books of K codewords of d numbers (T = 1 stored when the books are shared).

    Group selection is exact: m* = argmin_m sum_t min_k ||z_t - C[m, t, k]||^2 (Wang et al. 2025,
    arXiv 2510.22943). Distances are ||c||^2 - 2 z.c in float32; ties go to the lowest index.
    """

    def __init__(
        self, groups: int, tokens: int, codes: int, dim: int, shared: bool = False, weight: Tensor | None = None
    ) -> None:
        super().__init__()
        self.groups, self.tokens, self.codes, self.dim, self.shared = groups, tokens, codes, dim, shared
        self.weight = nn.Parameter(
            torch.randn(groups, 1 if shared else tokens, codes, dim) if weight is None else weight
        )

    def full(self) -> Tensor:
        """All codewords, (M, T, K, d), with shared books repeated for every token."""
        return self.weight.expand(-1, self.tokens, -1, -1)

    def distances(self, latents: Tensor) -> Tensor:
        """Squared distances less ||z||^2.

        Args:
            latents: (B, T, d) float32.

        Returns:
            (B, M, T, K) float32.
        """
        with torch.autocast(latents.device.type, enabled=False):
            books = self.full().float()  # (M, T, K, d)
            flat = books.permute(1, 3, 0, 2).reshape(self.tokens, self.dim, -1)  # (T, d, M*K)
            dots = torch.matmul(latents.float().transpose(0, 1), flat)  # (T, B, M*K)
            norms = books.square().sum(-1)  # (M, T, K)
            dots = dots.reshape(self.tokens, -1, self.groups, self.codes)  # (T, B, M, K)
            return norms - 2 * dots.permute(1, 2, 0, 3)  # (B, M, T, K)

    def select(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Exact nearest-neighbour selection.

        Args:
            latents: (B, T, d) float32.

        Returns:
            group (B,) int64 and indices (B, T) int64.
        """
        distances = self.distances(latents)
        group = distances.amin(3).sum(2).argmin(1)  # (B,)
        rows = torch.arange(len(group), device=group.device)
        return group, distances[rows, group].argmin(2)  # (B, T)

    def select_in(self, latents: Tensor, group: Tensor) -> Tensor:
        """Indices (B, T) int64 of latents (B, T, d) inside the given groups (B,): reads only those books."""
        books = self.full()[group].float()  # (B, T, K, d)
        dots = torch.einsum("btd,btkd->btk", latents.float(), books)
        return (books.square().sum(-1) - 2 * dots).argmin(2)

    def lookup(self, group: Tensor, indices: Tensor) -> Tensor:
        """Codewords (B, T, d) of group (B,) and indices (B, T)."""
        tokens = torch.arange(self.tokens, device=indices.device)  # (T,)
        return self.full()[group[:, None], tokens[None], indices]

    def forward(self, latents: Tensor, group: Tensor | None = None) -> Quantized:
        """Quantise latents (B, T, d), choosing the group exactly unless group (B,) is given."""
        latents = latents.float()
        with torch.no_grad():
            if group is None:
                group, indices = self.select(latents)
            else:
                indices = self.select_in(latents, group)
        codes = self.lookup(group, indices)  # (B, T, d)
        error = (latents - codes).square().sum((1, 2))  # (B,)
        return Quantized(group, indices, latents + (codes - latents).detach(), error)
