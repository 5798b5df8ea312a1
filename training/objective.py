"""What a gradient stage minimises, as one module: images in, loss out."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..models.codec import CodecModel
from .base_books import BaseBooks
from .losses import ReconstructionLoss
from .options import StageOptions


class Objective(nn.Module):
    """Encode, quantise, decode, compare. One forward for one backward, as DistributedDataParallel wants it.

    Args:
        books: the base stage's moving books, or None where the model's own stand still.
        compiled: whether encoder and decoder go through `torch.compile`.
    """

    def __init__(
        self,
        model: CodecModel,
        loss: ReconstructionLoss,
        options: StageOptions,
        books: BaseBooks | None,
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.model, self.options, self.books = model, options, books
        config = model.config
        self.probe = loss.probe(config.tokens * config.dim) if books is not None else None
        self._loss = [loss]  # in a list: its recogniser is no part of what is trained or wrapped
        self._encode: Callable[[Tensor], Tensor] = torch.compile(model.encode) if compiled else model.encode
        self._decode: Callable[[Tensor], Tensor] = torch.compile(model.decode) if compiled else model.decode

    def forward(
        self, images: Tensor, weights: Tensor, quantize: bool, seed: int
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The loss, the decoded images (B, 3, S, S) and the loss's terms; the base stage also moves its books.

        Args:
            images: (B, 3, S, S) in [0, 1].
            weights: (B, 1, S, S), of the pixels.
            quantize: False passes the latents on as they are.
            seed: of everything random in this step.
        """
        latents = self._encode(images)
        codes, errors = latents, None
        if quantize and self.books is not None:
            codes, errors = self.books(latents, seed)
        elif quantize:
            quantized = self.model.codebooks(latents)
            codes, errors = quantized.codes, quantized.error
        decoded = self._decode(codes)
        guesses = self.probe(codes).float() if self.probe is not None else None
        total, parts = self._compare(decoded, images, weights, seed, guesses)
        if errors is not None:
            error = errors.mean() / latents[0].numel()
            total, parts = total + self.options.commitment * error, parts | {"quantization": error.detach()}
        return total, decoded, parts

    def _compare(
        self, decoded: Tensor, images: Tensor, weights: Tensor, seed: int, guesses: Tensor | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        result: tuple[Tensor, dict[str, Tensor]] = self._loss[0](decoded.float(), images, weights, seed, guesses)
        return result
