"""A face recogniser given as an ONNX file, run in torch so that a loss can look through it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
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
from .recognizer_operators import OPERATORS, SETTINGS, batch_norm, conv, unusual

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
            if operator is batch_norm and before is not None and readers[inputs[0]] == 1:
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
            elif operator is conv:
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
