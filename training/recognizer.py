"""A face recogniser given as an ONNX file, run in torch so that a loss can look through it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import Tensor, nn

from ..errors import TrainingError
from ..models.recognizer_input import load_model
from .options import LossOptions

SIZE = 112


def open_recognizers(paths: Sequence[Path], options: LossOptions) -> Recognizer | Recognizers | None:
    """What looks at decoded faces: nothing, one recogniser, or several at once.

    Raises:
        TrainingError: see `Recognizer`.
    """
    found = [Recognizer(path, options) for path in paths]
    return Recognizers(found) if len(found) > 1 else found[0] if found else None


class Recognizers(nn.Module):
    """Several recognisers as one, so that a codec learns what a face is rather than what one network sees.

    Their embeddings, each of length 1, stand side by side: the cosine of two such rows is the mean of the
    recognisers' cosines.
    """

    def __init__(self, parts: Sequence[Recognizer]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, 3, S, S) RGB in [0, 1] -> embeddings (B, E1 + E2 + ...) and the features of all."""
        embeddings, features = zip(*(part(images) for part in self.parts), strict=True)
        return torch.cat([F.normalize(e.float(), dim=1) for e in embeddings], 1), [f for fs in features for f in fs]


class Recognizer(nn.Module):
    """Executes a plain convolutional ONNX graph (ArcFace ResNets, MobileFaceNet, SFace) on torch tensors.

    The weights are frozen; any batch size is accepted even where the file says 1. The options' `mean` and `std`
    are left out where the graph or its name says better (`models/recognizer_input.py`).

    Raises:
        TrainingError: the file is no ONNX model or has an operator, or a way to use one, this loss does not know.
    """

    def __init__(self, path: Path, options: LossOptions) -> None:
        super().__init__()
        try:
            model, normalization = load_model(path)
        except ValueError as error:
            raise TrainingError(f"{path} is no ONNX recogniser: {error}") from error
        graph = model.graph
        unknown = sorted({n.op_type for n in graph.node} - set(OPERATORS) - {"Constant"})
        if unknown:
            raise TrainingError(
                f"{path}: operators {unknown} are not supported in a recogniser loss; give a plain convolutional one"
            )
        self.nodes: list[tuple[Any, list[str], str, dict[str, Any]]] = []
        self.constants: dict[str, str] = {}
        for tensor in graph.initializer:
            self._constant(tensor.name, tensor)
        for node in graph.node:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                self._constant(node.output[0], attributes["value"])
            elif refused := unusual(node.op_type, attributes):
                raise TrainingError(f"{path}: {node.op_type} with {refused} is not supported in a recogniser loss")
            elif node.op_type in SETTINGS:
                given = zip(SETTINGS[node.op_type], node.input[1:], strict=False)  # the last ones may be left out
                settings = attributes | {name: self._setting(i) for name, i in given if i}
                self.nodes.append((OPERATORS[node.op_type], [node.input[0]], node.output[0], settings))
            else:
                self.nodes.append((OPERATORS[node.op_type], list(node.input), node.output[0], attributes))
        self.input, self.output = graph.input[0].name, graph.output[0].name
        self._fold_batch_norms()
        self.mean, self.std = normalization or (options.mean, options.std)

    def _constant(self, name: str, proto: Any) -> None:
        self.constants[name] = f"c{len(self.constants)}"
        self.register_buffer(self.constants[name], torch.tensor(numpy_helper.to_array(proto)), persistent=False)

    def _fold_batch_norms(self) -> None:
        """Let convolutions do what batch normalisations straight behind them do, which saves passes over memory."""
        made: dict[str, int] = {}
        readers = Counter([self.output, *(name for _, inputs, _, _ in self.nodes for name in inputs)])
        for number, (operator, inputs, output, attributes) in enumerate(self.nodes):
            before = made.get(inputs[0])
            if operator is _batch_norm and before is not None and readers[inputs[0]] == 1:
                convolution, (x, weight, *bias), _, settings = self.nodes[before]
                w, gain, shift, mean, var = (getattr(self, self.constants[name]) for name in (weight, *inputs[1:]))
                scale = gain / (var + attributes.get("epsilon", 1e-5)).sqrt()
                b = getattr(self, self.constants[bias[0]]) if bias else 0
                folded = {
                    f"{output} weight": w * scale[:, None, None, None],
                    f"{output} bias": (b - mean) * scale + shift,
                }
                for name, value in folded.items():
                    self.constants[name] = f"c{len(self.constants)}"
                    self.register_buffer(self.constants[name], value, persistent=False)
                self.nodes[before] = convolution, [x, *folded], output, settings
                self.nodes[number] = OPERATORS["Identity"], [output], output, {}
            elif operator is _conv:
                made[output] = number

    def _setting(self, name: str) -> Any:
        """A constant input as a number or a list: read from a GPU's memory it would hold up every call."""
        return getattr(self, self.constants[name]).tolist()

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images (B, 3, S, S) RGB in [0, 1] -> embeddings (B, E) and the last activation at each
        resolution of at most 28 (finer ones cost much and tell little about a face)."""
        x = resize(images)
        values = {name: getattr(self, slot) for name, slot in self.constants.items()}
        values[self.input] = (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]
        features: dict[int, Tensor] = {}
        for operator, inputs, output, attributes in self.nodes:
            values[output] = operator(*[values[i] for i in inputs if i], **attributes)
            if values[output].dim() == 4 and 1 < values[output].shape[2] <= SIZE // 4:
                features[values[output].shape[2]] = values[output]
        return values[self.output], list(features.values())


def resize(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) at the recogniser's size, (B, 3, 112, 112)."""
    if images.shape[2:] == (SIZE, SIZE):
        return images
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", align_corners=False)


def unusual(kind: str, attributes: Mapping[str, Any]) -> str | None:
    """Which attribute of a node has a value that its operator here does not know."""
    for name, usual in USUAL.get(kind, {}).items():
        if name in attributes and attributes[name] not in usual:
            value = attributes[name]
            return f"{name} {value.decode() if isinstance(value, bytes) else value}"
    return None


def _conv(x: Tensor, w: Tensor, b: Tensor | None = None, **a: Any) -> Tensor:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    strides, pads = a.get("strides", [1, 1]), [top, left]
    if [top, left] != [bottom, right]:
        x, pads = F.pad(x, (left, right, top, bottom)), [0, 0]
    dilations, groups = a.get("dilations", 1), a.get("group", 1)
    if x.requires_grad and x.device.type == "cpu" and groups == x.shape[1] > 1 and max(strides) > 1:
        every = F.conv2d(x, w, b, 1, pads, dilations, groups)  # the strided one's backward takes six times as long
        return every[:, :, :: strides[0], :: strides[1]].contiguous(memory_format=torch.channels_last)
    return F.conv2d(x, w, b, strides, pads, dilations, groups)


def _batch_norm(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor, **a: Any) -> Tensor:
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
    "BatchNormalization": _batch_norm,
    "Clip": lambda x, min=-math.inf, max=math.inf: F.hardtanh(x, min, max),  # clamp's backward is three times slower
    "Conv": _conv,
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
