"""What quantises during the base stage: books as moving averages, at several rates at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from ..models.codebooks import SwitchableCodebooks
from ..models.codec import CodecModel
from ..runtime.switching import Switching
from .ema import BookAverage
from .lloyd import fit_books
from .options import StageOptions


class BaseBooks:
    """One group of books, and for a part of each batch lower rates, so that one backbone serves a family.

    The first `nested` of a batch keep only the first token of each cell (the others become 0); of these the
    first `coarse` are quantised with books of `coarse_codes` codewords. Tokens are ordered by importance this
    way (nested dropout, Rippel et al. 2014), and a codec of fewer tokens is cut out of the backbone.
    """

    def __init__(self, model: CodecModel, options: StageOptions, fabric: Fabric) -> None:
        books = model.codebooks
        self.options, self.fabric = options, fabric
        self.averages = {"books": BookAverage(books, options.book_decay)}
        if options.coarse:
            sizes = Switching(1, books.tokens, codes=options.coarse_codes)
            coarse = SwitchableCodebooks(sizes, books.dim, shared=books.shared)
            self.averages["coarse"] = BookAverage(coarse.to(books.weight.device), options.book_decay)
        per_cell = getattr(model.encoder, "per_cell", 1)
        keep = torch.arange(books.tokens, device=books.weight.device) % per_cell == 0
        self.first = keep[:, None].float()  # (T, 1)

    @torch.no_grad()
    def start(self, latents: Tensor, seed: int) -> None:
        """Put all books onto latents (N, T, d) by a few Lloyd iterations."""
        for average in self.averages.values():
            books = average.books
            points = latents.reshape(-1, 1, books.dim)[:: max(1, books.tokens // 8)] if books.shared else latents
            generator = torch.Generator().manual_seed(seed)
            books.weight.data.copy_(fit_books(points, books.codes, 8, generator)[None])
            average.restart()

    def __call__(self, latents: Tensor, seed: int, update: bool = True) -> tuple[Tensor, Tensor]:
        """Codes (B, T, d), with gradients straight through, and the quantisation error (B,) of latents (B, T, d)."""
        count = len(latents)
        nested, coarse = round(count * self.options.nested), round(count * self.options.coarse)
        results = {}
        for name, average in self.averages.items():
            results[name] = found = average.books(latents)
            if update:
                group, indices = self._all(found.group), self._all(found.indices)
                generator = torch.Generator(latents.device).manual_seed(seed)
                average.update(self._all(latents), group, indices, generator)
        codes, error = results["books"].codes, results["books"].error
        if coarse:
            codes = torch.cat([results["coarse"].codes[:coarse], codes[coarse:]])
            error = torch.cat([results["coarse"].error[:coarse], error[coarse:]])
        if nested:
            codes = torch.cat([codes[:nested] * self.first, codes[nested:]])
        return codes, error

    def _all(self, part: Tensor) -> Tensor:
        """The parts of a batch that all devices have, so that their books stay the same."""
        if self.fabric.world_size == 1:
            return part
        return cast(Tensor, self.fabric.all_gather(part.detach())).flatten(0, 1)

    def views(self) -> dict[str, Callable[[Tensor], Tensor]]:
        """For validation: how latents (B, T, d) become codes, by the suffix of the figure's name."""
        modes: dict[str, Callable[[Tensor], Tensor]] = {}
        if self.options.nested:
            modes["_nested"] = lambda latents: self.averages["books"].books(latents).codes * self.first
        if self.options.coarse:
            modes["_coarse"] = lambda latents: self.averages["coarse"].books(latents).codes * self.first
        return modes

    def state(self) -> dict[str, Tensor]:
        """Tensors to keep for a resumed run."""
        tensors: dict[str, Tensor] = {}
        for name, average in self.averages.items():
            tensors |= {f"{name}.counts": average.counts, f"{name}.sums": average.sums}
            if name != "books":  # these are the model's own
                tensors[f"{name}.weight"] = average.books.weight
        return tensors

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take up tensors that `state` gave."""
        for name, average in self.averages.items():
            average.counts.copy_(tensors[f"{name}.counts"])
            average.sums.copy_(tensors[f"{name}.sums"])
            if name != "books":
                average.books.weight.copy_(tensors[f"{name}.weight"])
