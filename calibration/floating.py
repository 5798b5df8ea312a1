"""The float encoder that a calibration starts from: one ONNX graph with plain float32 constants, and its layers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import onnx
from onnx import TensorProto, numpy_helper

from ..errors import CalibrationError
from ..export.scope import is_scoped

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")  # what int8 makes faster
QUANTISED = [*LAYERS, "Relu", "Add", "Reshape", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat"]


def load_float(path: Path) -> onnx.ModelProto:
    """A graph with its weights inside, all as float32 initializers: no Cast behind constants of fewer bytes.

    Raises:
        CalibrationError: the file is no ONNX graph, or its arithmetic is not float32.
    """
    try:
        proto = onnx.load(path)
    except Exception as error:  # protobuf's and onnx's own types
        raise CalibrationError(f"{path.name} cannot be read: {error}; export the bundle again") from error
    graph = proto.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in constants and node.attribute[0].i == TensorProto.FLOAT:
            tensor = constants[node.input[0]]
            value = numpy_helper.to_array(tensor).astype("float32")
            graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            graph.initializer.remove(tensor)
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer):
        raise CalibrationError(f"{path.name} computes in fp16; calibration starts from an fp32 variant: export one")
    return onnx.shape_inference.infer_shapes(proto)


def layers_of(proto: onnx.ModelProto) -> list[str]:
    """Names of the backbone's layers with weights, in the order of the graph."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    return [
        node.name
        for node in proto.graph.node
        if node.op_type in LAYERS and is_scoped(node.name) and any(name in weights for name in node.input)
    ]


def float_nodes(proto: onnx.ModelProto, floating: Collection[str]) -> list[str]:
    """Names of the nodes that stay float with these layers: those outside the backbone, the layers, and what follows.

    A node without weights (a ReLU, a sum) is as float as the layers whose results reach it: if one of them is float,
    rounding its result to int8 would undo what keeping the layer in float is for.
    """
    layers = set(layers_of(proto))
    before: dict[str, frozenset[str]] = {}  # tensor -> the layers that reach it without another layer between
    found = []
    for node in proto.graph.node:
        reaching = frozenset().union(*(before.get(name, frozenset()) for name in node.input))
        if not is_scoped(node.name) or node.name in floating or (node.name not in layers and reaching & set(floating)):
            found.append(node.name)
        own = frozenset([node.name]) if node.name in layers else reaching
        before |= dict.fromkeys(node.output, own)
    return found
