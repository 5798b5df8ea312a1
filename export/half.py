"""fp16 graphs: the backbone in two bytes, and nothing else.

Inputs, outputs, preprocessing, the codebook distance and the rounding to uint8 stay fp32, and inside the backbone so do
normalisations and exponentials, whose sums leave the range of two bytes. Converters that go by operator cast every
tensor between two fp32 nodes to fp16 and back, the distances too, so stcq goes by where a node was traced.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..errors import ExportError
from .scope import is_scoped

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
STAY_FLOAT = {
    *("LayerNormalization", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "LpNormalization"),
    *("ReduceMean", "ReduceSum", "ReduceL2", "ReduceSumSquare", "Softmax", "LogSoftmax", "Exp", "Log"),
    *("Pow", "Sqrt", "Reciprocal", "Erf", "ArgMin", "ArgMax", "TopK", "CumSum", "Range", "ConstantOfShape"),
}
FLOAT_INPUTS = {"Resize": {1, 2}}  # operators' inputs that are float32 by definition


def to_half(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the backbone's arithmetic and weights in fp16; a graph without a backbone stays as it is.

    Args:
        proto: a simplified fp32 graph with inferred types; left unchanged.

    Raises:
        ExportError: the backbone has branches, or a weight does not fit fp16.
    """
    result = onnx.ModelProto.FromString(proto.SerializeToString())
    graph = result.graph
    inner = [node for node in graph.node if is_scoped(node.name) and node.op_type not in STAY_FLOAT]
    if any(attribute.HasField("g") for node in graph.node for attribute in node.attribute):
        raise ExportError("fp16: the graph has branches or loops, which stcq does not convert; export fp32")
    casts = _Casts(graph)
    halves = {name for node in inner for name in node.output if casts.types.get(name) == FLOAT}
    borders = {value.name for value in graph.output}
    inside = {node.name for node in inner}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in inside:
            fixed = FLOAT_INPUTS.get(node.op_type, set())
            wanted = [
                None if casts.types.get(x) != FLOAT else FLOAT if i in fixed else HALF for i, x in enumerate(node.input)
            ]
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == FLOAT:
                    attribute.i = HALF
        else:
            wanted = [FLOAT if name in halves else None for name in node.input]
        for i, kind in enumerate(wanted):
            if kind is not None:
                node.input[i] = casts.as_type(node.input[i], kind, halves, nodes)
        made_here = [name for name in node.output if name in halves and name in borders]
        for name in made_here:  # a graph's output keeps its name and type
            node.output[list(node.output).index(name)] = f"{name}_half"
            nodes.append(node)
            nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_to_float", to=FLOAT))
        if not made_here:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend([*kept, *casts.weights])
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(result, data_prop=True)


class _Casts:
    """Makes each tensor's copy of the other type once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        values = [*graph.input, *graph.output, *graph.value_info]
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.types = {value.name: value.type.tensor_type.elem_type for value in values}
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.weights: list[onnx.TensorProto] = []
        self._made: dict[tuple[str, int], str] = {}

    def as_type(self, name: str, kind: int, halves: set[str], nodes: list[onnx.NodeProto]) -> str:
        """The name of a tensor's copy in `kind`; appends what makes it to `nodes` or to the weights."""
        if (name in halves) == (kind == HALF):
            return name
        key = (name, kind)
        if key not in self._made:
            copy = self._made[key] = f"{name}_{'half' if kind == HALF else 'float'}"
            if name in self.constants:
                self.weights.append(numpy_helper.from_array(self._half(name), copy))
            else:
                nodes.append(helper.make_node("Cast", [name], [copy], f"{copy}_cast", to=kind))
        return self._made[key]

    def _half(self, name: str) -> np.ndarray:
        """A constant in fp16."""
        value = numpy_helper.to_array(self.constants[name])
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.isfinite(half).all():
            raise ExportError(f"fp16: {name} holds {np.abs(value).max():.3g}, more than fp16 can; export fp32")
        return half
