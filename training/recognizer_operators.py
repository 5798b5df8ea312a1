"""What a recogniser's ONNX operators do to torch tensors, written so that a CPU's backward pass is fast, too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def unusual(kind: str, attributes: Mapping[str, Any]) -> str | None:
    """Which attribute of a node has a value that its operator here does not know."""
    for name, usual in USUAL.get(kind, {}).items():
        if name in attributes and attributes[name] not in usual:
            value = attributes[name]
            return f"{name} {value.decode() if isinstance(value, bytes) else value}"
    return None


def conv(x: Tensor, w: Tensor, b: Tensor | None = None, **a: Any) -> Tensor:
    """ONNX's Conv, (B, C, H, W) and weights (O, C / group, kh, kw); asymmetric pads and strides, too."""
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    strides, pads = a.get("strides", [1, 1]), [top, left]
    if [top, left] != [bottom, right]:
        x, pads = F.pad(x, (left, right, top, bottom)), [0, 0]
    dilations, groups = a.get("dilations", 1), a.get("group", 1)
    if x.requires_grad and x.device.type == "cpu" and groups == x.shape[1] > 1 and max(strides) > 1:
        every = F.conv2d(x, w, b, 1, pads, dilations, groups)  # the strided one's backward takes six times as long
        return every[:, :, :: strides[0], :: strides[1]].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, w, b, strides, pads, dilations, groups)


def batch_norm(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor, **a: Any) -> Tensor:
    """ONNX's BatchNormalization as it is at inference."""
    return F.batch_norm(x, mean, var, w, b, eps=a.get("epsilon", 1e-5))


def _gemm(x: Tensor, w: Tensor, b: Tensor | None = None, **a: Any) -> Tensor:
    alpha, beta = a.get("alpha", 1.0), a.get("beta", 1.0)
    w = w if a.get("transB") else w.T
    return F.linear(x, w if alpha == 1 else alpha * w, b if b is None or beta == 1 else beta * b)


class _Prelu(torch.autograd.Function):
    """x where positive, else slope x. torch's backward computes the slope's gradient, too: slow on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x, slope)
        return F.prelu(x, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        x, slope = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(gradients[0], x, 0)  # the gradient where x > 0
        shape = [1, -1] + [1] * (x.dim() - 2)
        return torch.addcmul(positive, gradients[0] - positive, slope.view(shape)), None


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    slope = slope.flatten().to(x.dtype)
    if x.requires_grad and x.device.type == "cpu":
        chosen: Tensor = _Prelu.apply(x, slope)  # type: ignore[no-untyped-call]
        return chosen
    return F.prelu(x, slope)


SETTINGS = {"Clip": ("min", "max"), "Reshape": ("shape",)}  # inputs that are settings, not data; or once attributes
USUAL: dict[str, dict[str, tuple[Any, ...]]] = {  # the values that the operators below know, of what not all read
    "Conv": {"auto_pad": (b"NOTSET", b"VALID")},
    "Flatten": {"axis": (1,)},
    "Gemm": {"transA": (0,)},
    "Reshape": {"allowzero": (0,)},
}
OPERATORS: dict[str, Any] = {
    "Add": lambda x, y: x + y,
    "BatchNormalization": batch_norm,
    "Clip": lambda x, min=-math.inf, max=math.inf: F.hardtanh(x, min, max),  # clamp's backward is three times slower
    "Conv": conv,
    "Dropout": lambda x, *_, **__: x,
    "Flatten": lambda x, **_: x.flatten(1),
    "Gemm": _gemm,
    "Identity": lambda x: x,
    "Mul": lambda x, y: x * y,
    "PRelu": _prelu,
    "Relu": F.relu,
    "Reshape": lambda x, shape, **_: x.flatten(1) if len(shape) == 2 else x.reshape([len(x), *shape[1:]]),
    "Sub": lambda x, y: x - y,
}
