"""Everything in which TensorRT 8.5, 8.6, 10 and 11 differ for stcq; the rest of its backend is the same for all.

From 10 on networks can be strongly typed, from 11 on they always are: each tensor has the type that the ONNX graph
gives it. Before, the builder chooses a type for every layer, and what must stay float32 has to be pinned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ...errors import BackendError

OLDEST = (8, 5)
STRONG_FROM = 10
PINNED_TYPES = ("SOFTMAX", "REDUCE", "NORMALIZATION", "TOPK")  # of layers; NORMALIZATION is there from 8.6 on


def version_of(trt: Any) -> tuple[int, int]:
    """Major and minor version.

    Raises:
        BackendError: it is older than 8.5, whose interface has no named tensors.
    """
    major, minor = (int(part) for part in str(trt.__version__).split(".")[:2])
    if (major, minor) < OLDEST:
        raise BackendError(f"TensorRT {trt.__version__} is too old, stcq needs 8.5 or newer (JetPack 5.1 or newer)")
    return major, minor


def is_strongly_typed(trt: Any) -> bool:
    """Whether precision comes from the graph alone."""
    return version_of(trt)[0] >= STRONG_FROM


def network_flags(trt: Any) -> int:
    """The argument of create_network."""
    flags = trt.NetworkDefinitionCreationFlag
    if not is_strongly_typed(trt):
        return 1 << int(flags.EXPLICIT_BATCH)
    return 1 << int(flags.STRONGLY_TYPED)


def set_precision(trt: Any, network: Any, config: Any, precision: str) -> None:
    """Make the builder keep to the graph's types.

    TensorFloat-32 is off for all: it has the range of float32 and the ten fraction bits of float16.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    if is_strongly_typed(trt) or precision == "fp32":
        return
    if precision == "int8":  # what is quantised is where the graph's pairs are, the rest is float32
        config.set_flag(trt.BuilderFlag.INT8)
        return
    config.set_flag(trt.BuilderFlag.FP16)
    config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
    pinned = {getattr(trt.LayerType, name) for name in PINNED_TYPES if hasattr(trt.LayerType, name)}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        inside = "network" in layer.name.split("/")
        floats = [
            o for o in range(layer.num_outputs) if layer.get_output(o).dtype in (trt.DataType.FLOAT, trt.DataType.HALF)
        ]
        if floats and (not inside or layer.type in pinned):
            layer.precision = trt.DataType.FLOAT
            for output in floats:
                layer.set_output_type(output, trt.DataType.FLOAT)


def compute_types(information: str) -> set[str]:
    """The types in an engine's layers, of "fp32", "fp16" and "int8", from the inspector's JSON.

    Up to 10 a tensor has one field "Format/Datatype"; 11 has two, and other names around them.
    """
    kinds = set()
    for key, value in _items(json.loads(information)):
        if "datatype" in key.lower().replace(" ", "") and isinstance(value, str):
            text = value.lower()
            if "fp16" in text or "half" in text:
                kinds.add("fp16")
            elif "int8" in text:
                kinds.add("int8")
            elif "fp32" in text or "float" in text:
                kinds.add("fp32")
    return kinds


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values in a JSON document, at any depth."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield str(key), value
            yield from _items(value)
    elif isinstance(node, list):
        for value in node:
            yield from _items(value)
