"""Rounding a model to what fewer bytes hold: two bytes a weight, or one byte and a scale per channel in the decoder and
per book in the codebooks.

That makes another model, with its own digest; from then on everything is exact again: every target computes the
rounded model, packets decode alike everywhere, and parity is judged as strictly as ever. The loss is measured here.
"""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import ExportError
from ..models.codec import CodecModel
from ..runtime.graphs import faces_at_once
from .storage import SMALL, quantize_books, quantize_weight

BookType = Literal["fp32", "fp16", "int8"]
WeightType = Literal["fp32", "fp16", "int8"]
MOST_ERROR = 1.02  # times the quantisation error of the model that was not rounded
MOST_DECIBELS = 0.1  # of PSNR against the pictures


def rounded(model: CodecModel, weights: WeightType, codebooks: BookType) -> CodecModel:
    """A copy of a model whose weights and codebooks are exactly what the given types hold.

    Weights in "int8" are the decoder's matrices and kernels, with a scale for each output channel; the encoder's, from
    which tokens come, and all small tensors have two bytes then, too. Batch normalisations are folded into their
    convolutions before the weights are rounded, as export folds them.

    Raises:
        ExportError: a value does not fit fp16.
    """
    if weights == "fp32" and codebooks == "fp32":
        return model
    model = copy.deepcopy(model)
    if weights != "fp32":
        for part in (model.encoder, model.decoder, model.router):
            fold_batch_norms(part)
            for name, tensor in [*part.named_parameters(), *part.named_buffers()]:
                if weights == "int8" and part is model.decoder and is_matrix(tensor):
                    codes, scale = quantize_weight(tensor.detach().numpy())
                    tensor.data.copy_(torch.from_numpy(codes * scale))
                elif tensor.is_floating_point():
                    tensor.data.copy_(_half(name, tensor.data))
    books = model.codebooks.weight
    if codebooks == "fp16":
        books.data.copy_(_half("codebooks", books.data))
    elif codebooks == "int8":
        codes, scale = quantize_books(books.detach().numpy())
        books.data.copy_(torch.from_numpy(codes.astype(np.float32) * scale[:, :, None, None]))
    return model


def is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor is a trained matrix or kernel that is worth a scale for each output channel."""
    return isinstance(tensor, nn.Parameter) and tensor.dim() > 1 and tensor.numel() >= SMALL


def _half(name: str, tensor: Tensor) -> Tensor:
    """A tensor rounded to fp16 and back."""
    result = tensor.half().float()
    if not torch.isfinite(result).all():
        raise ExportError(f"{name} holds {tensor.abs().max():.3g}, more than fp16 can; store it as fp32")
    return result


def fold_batch_norms(module: nn.Module) -> None:
    """Fold every BatchNorm2d that follows a convolution in the same Sequential into it, in place."""
    for child in module.children():
        fold_batch_norms(child)
    if isinstance(module, nn.Sequential):
        for i in range(len(module) - 1):
            first, second = module[i], module[i + 1]
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                module[i], module[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()


@torch.no_grad()
def rounding_loss(original: CodecModel, model: CodecModel, images: NDArray[np.uint8]) -> dict[str, Any]:
    """What rounding cost on images (N, S, S, 3) uint8: token agreement, quantisation error, PSNR against the images.

    Raises:
        ExportError: it cost more than 2 % of quantisation error or 0.1 dB.
    """
    error: list[list[float]] = [[], []]
    squares: list[list[float]] = [[], []]
    same = []
    for batch in torch.split(torch.from_numpy(images), faces_at_once(images.shape[1])):
        pixels = batch.float().permute(0, 3, 1, 2) / 255
        tokens = []
        for i, codec in enumerate((original, model)):
            latents = codec.encode(pixels)
            group, indices = codec.codebooks.select(latents)
            codes = codec.codebooks.lookup(group, indices)
            error[i].append(float((latents - codes).square().sum()))
            decoded = codec.decode(codes).clamp(0, 1)
            squares[i].append(float((decoded - pixels).square().sum()))
            tokens.append((group, indices))
        (g, a), (h, b) = tokens
        same.append(((a == b) & (g == h)[:, None]).float().mean().item() * len(batch))
    count = images.size
    psnr = [10 * float(np.log10(count / max(sum(values), 1e-12))) for values in squares]
    ratio = (sum(error[1]) + 1e-12) / (sum(error[0]) + 1e-12)
    lost = psnr[0] - psnr[1]
    if not (ratio <= MOST_ERROR and lost <= MOST_DECIBELS):
        raise ExportError(
            f"rounding costs {ratio - 1:.1%} quantisation error and {lost:.2f} dB (limits {MOST_ERROR - 1:.0%} and "
            f"{MOST_DECIBELS} dB); store the weights or codebooks in more bytes"
        )
    return {
        "token_agreement": round(sum(same) / len(images), 6),
        "quantisation_error_ratio": round(ratio, 6),
        "psnr_before": round(psnr[0], 3),
        "psnr_after": round(psnr[1], 3),
    }
