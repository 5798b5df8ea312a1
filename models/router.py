"""The router: a small network that guesses the best codebook group without reading the books."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn


class Router(nn.Module):
    """Scores g(z) of all groups from the latents; the `router` policy takes the highest."""

    def __init__(self, tokens: int, dim: int, groups: int, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(tokens * dim, width), nn.ReLU(), nn.Linear(width, groups))

    def forward(self, latents: Tensor) -> Tensor:
        """Latents (B, T, d) float32 -> scores (B, M) float32, before any softmax."""
        return cast(Tensor, self.layers(latents))
