"""Switchable token-specific codebooks: choose a group, quantise each token with its own book."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..runtime.switching import Switching
from .trellis import Trellis, sets_of


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

    The weight has V sets of books: one for each group, or with S switches the S-th root of M, of which a group picks
    one for each of S runs of tokens (runtime/switching.py). As runs choose apart, the search costs what V groups do.
    With a memory of D tokens codes pick the sets, and the error is the least over all walks (runtime/trellis.py).

    Args:
        switching: M, T, K and how groups pick.
        dim: d.
        shared: one book for all tokens.
        weight: (V, T or 1, K, d) float32, not copied; None = random.
    """

    def __init__(self, switching: Switching, dim: int, shared: bool = False, weight: Tensor | None = None) -> None:
        super().__init__()
        self.switching, self.dim, self.shared, self.sets = switching, dim, shared, switching.sets
        self.groups, self.tokens, self.codes = switching.groups, switching.tokens, switching.codes
        self.switches = switching.switches
        self.trellis = Trellis(switching.register) if switching.memory else None
        self.powers = [self.sets**power for power in reversed(range(self.switches))]  # (S,) of the group's digits
        self.weight = nn.Parameter(
            torch.randn(self.sets, 1 if shared else self.tokens, self.codes, dim) if weight is None else weight
        )

    def full(self) -> Tensor:
        """All codewords, (V, T, K, d), with shared books repeated for every token."""
        return self.weight.expand(-1, self.tokens, -1, -1)

    def distances(self, latents: Tensor) -> Tensor:
        """Squared distances less ||z||^2.

        Args:
            latents: (B, T, d) float32.

        Returns:
            (B, V, T, K) float32.
        """
        with torch.autocast(latents.device.type, enabled=False):
            books = self.full().float()  # (V, T, K, d)
            flat = books.permute(1, 3, 0, 2).reshape(self.tokens, self.dim, -1)  # (T, d, V*K)
            dots = torch.matmul(latents.float().transpose(0, 1), flat)  # (T, B, V*K)
            norms = books.square().sum(-1)  # (V, T, K)
            dots = dots.reshape(self.tokens, -1, self.sets, self.codes)  # (T, B, V, K)
            return torch.sub(norms, dots.permute(1, 2, 0, 3), alpha=2)  # (B, V, T, K)

    def expand(self, group: Tensor, indices: Tensor | None = None) -> Tensor:
        """The set of books of every token: group (B,), with a memory also indices (B, T) -> (B, T) int64.

        Raises:
            ValueError: there is a memory and no indices.
        """
        if self.trellis:
            if indices is None:
                raise ValueError("with a memory the sets follow from the codes; give the indices")
            return sets_of(group, indices, self.trellis.register, self.codes)
        digits = torch.stack([group // power % self.sets for power in self.powers], 1)  # (B, S)
        return digits.repeat_interleave(self.tokens // self.switches, 1)

    def choose(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Group (B,) of least summed distances (B, V, T, K) and indices (B, T) in it; ties to the lowest."""
        if self.trellis:
            return self._walk(self.trellis, distances, None)
        digits = self.runs(distances).argmin(1)  # (B, S)
        group = (digits * digits.new_tensor(self.powers)).sum(1)  # (B,)
        rows, tokens = torch.arange(len(digits), device=digits.device), torch.arange(self.tokens, device=digits.device)
        return group, distances[rows[:, None], self.expand(group), tokens].argmin(2)

    def _walk(self, trellis: Trellis, distances: Tensor, group: Tensor | None) -> tuple[Tensor, Tensor]:
        """`choose` with a memory; from the states `group` (B,), if they are given."""
        parts = self._classes(trellis, distances)
        nearest = parts.min(4)
        least = nearest.values.permute(2, 0, 1, 3)  # (T, B, sets, V)
        left = trellis.costs(least)
        group = left[0].argmin(1) if group is None else group
        sets, classes = trellis.walk(least, left, group)
        rows, tokens = torch.arange(len(group), device=group.device), torch.arange(self.tokens, device=group.device)
        inside = nearest.indices[rows[:, None], sets, tokens, classes]  # (B, T)
        return group, classes * parts.shape[4] + inside

    @staticmethod
    def _classes(trellis: Trellis, distances: Tensor) -> Tensor:
        """Distances (B, sets, T, K) by classes of codewords: (B, sets, T, V, K / V)."""
        return distances.reshape(*distances.shape[:3], trellis.classes, -1)

    def runs(self, distances: Tensor) -> Tensor:
        """The least distances (B, V, T, K) summed over every run of tokens: (B, V, S)."""
        least = distances.amin(3)
        return least.reshape(*least.shape[:2], self.switches, -1).sum(3)

    def all_errors(self, distances: Tensor) -> Tensor:
        """Least summed distances (B, M) of all groups, from distances (B, V, T, K)."""
        if self.trellis is None:
            return self.group_errors(self.runs(distances))
        least = self._classes(self.trellis, distances).amin(4)
        return self.trellis.costs(least.permute(2, 0, 1, 3))[0]

    def group_errors(self, errors: Tensor) -> Tensor:
        """Without memory, summed errors (B, M) of all groups from those (B, V, S) of every set in every run."""
        total = errors[:, :, 0]
        for run in range(1, self.switches):
            total = (total[:, :, None] + errors[:, None, :, run]).flatten(1)  # the first run's digit counts most
        return total

    def select(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Exact nearest-neighbour selection.

        Args:
            latents: (B, T, d) float32.

        Returns:
            group (B,) int64 and indices (B, T) int64.
        """
        return self.choose(self.distances(latents))

    def select_in(self, latents: Tensor, group: Tensor) -> Tensor:
        """Indices (B, T) int64 of latents (B, T, d) inside the given groups (B,): reads only those books, or with a
        memory, whose walks go through all, gives the cheapest walk from there."""
        if self.trellis:
            return self._walk(self.trellis, self.distances(latents), group)[1]
        tokens = torch.arange(self.tokens, device=group.device)
        books = self.full()[self.expand(group), tokens].float()  # (B, T, K, d)
        dots = torch.einsum("btd,btkd->btk", latents.float(), books)
        return (books.square().sum(-1) - 2 * dots).argmin(2)

    def lookup(self, group: Tensor, indices: Tensor) -> Tensor:
        """Codewords (B, T, d) of group (B,) and indices (B, T)."""
        tokens = torch.arange(self.tokens, device=indices.device)  # (T,)
        return self.full()[self.expand(group, indices), tokens, indices]

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
