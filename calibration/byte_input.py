"""int8 encoders whose first convolution reads the picture's bytes, with no float copy of the picture in between.

A graph computes x = a u + b of the bytes u (here 2 u / 255 - 1) and its quantiser q = x / s + z. With the step s = a, q
is u but for a shift of at most half a step, which the convolution's bias takes up: exactly, but at the picture's edge,
which is padded with x = 0 and now is half a step off.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

SIGNS = {"Add": 1.0, "Sub": -1.0}
POWERS = {"Mul": 1.0, "Div": -1.0}
PLANES = "picture_planes"


class Normalised(NamedTuple):
    """The tensor that the first convolution reads, scale * bytes + offset, and what made it of the picture.

    Attributes:
        name: the tensor.
        scale, offset: numbers.
        results: of the Cast and the Transpose, then of the products and sums, this tensor the last.
    """

    name: str
    scale: float
    offset: float
    results: tuple[str, ...]

    @property
    def zero(self) -> int:
        """The byte nearest to x = 0."""
        return round(-self.offset / self.scale)

    @property
    def override(self) -> dict[str, list[dict[str, object]]]:
        """The library's TensorQuantOverrides that make one step one byte."""
        return {self.name: [{"scale": np.array(self.scale, np.float32), "zero_point": np.array(self.zero, np.uint8)}]}


def find_normalised(proto: onnx.ModelProto) -> Normalised | None:
    """What a float encoder's first convolution reads; None: something other than bytes, scaled and shifted alike."""
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    pictures = [i.name for i in graph.input if i.type.tensor_type.elem_type == TensorProto.UINT8]
    for conv in (node for node in graph.node if node.op_type == "Conv"):
        factor, offset, results, name = 1.0, 0.0, list[str](), conv.input[0]
        while (node := makers.get(name)) is not None and node.op_type in SIGNS | POWERS:
            value = constants.get(node.input[1])
            if value is None or value.size != 1:
                break
            if node.op_type in SIGNS:
                offset += factor * SIGNS[node.op_type] * float(value.item())
            else:
                factor *= float(value.item()) ** POWERS[node.op_type]
            results.insert(0, name)
            name = node.input[0]
        cast = makers.get(node.input[0]) if node is not None and node.op_type == "Transpose" else None
        if node is None or cast is None or cast.op_type != "Cast" or cast.input[0] not in pictures or factor <= 0:
            continue
        found = Normalised(conv.input[0], factor, offset, (node.input[0], name, *results))
        if 0 <= found.zero <= 255:
            return found
    return None


def read_bytes(model: onnx.ModelProto, normalised: Normalised) -> bool:
    """Let the convolutions of a graph quantised with the override read bytes, in place.

    Returns:
        False, and no change, if the tensor is not quantised or something else than convolutions with a bias reads it.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    quantizers = [n for n in graph.node if n.op_type == "QuantizeLinear" and n.input[0] == normalised.name]
    pairs = [n for q in quantizers for n in _readers(graph, q.output[0])]
    convolutions = [n for pair in pairs for n in _readers(graph, pair.output[0])]
    biases = [makers[name] for n in convolutions if n.op_type == "Conv" for name in n.input[2:] if name in makers]
    if not biases or len(biases) < len(convolutions) or any(bias.input[0] not in constants for bias in biases):
        return False
    shift = normalised.offset / normalised.scale + normalised.zero
    for conv, bias in zip(convolutions, biases, strict=True):
        weight = numpy_helper.to_array(constants[makers[conv.input[1]].input[0]]).astype(np.int64)
        tensor = constants[bias.input[0]]
        moved = numpy_helper.to_array(tensor) + np.rint(shift * weight.sum((1, 2, 3)))
        tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.int32), tensor.name))
    cast, transpose = (makers[name] for name in normalised.results[:2])
    planes = helper.make_node("Transpose", [cast.input[0]], [PLANES], PLANES)
    planes.attribute.extend(transpose.attribute)
    for pair in pairs:
        pair.input[0] = PLANES
    cast.input[0], cast.output[0] = PLANES, transpose.output[0]  # for what else reads the picture
    for node in [*quantizers, transpose]:
        graph.node.remove(node)
    graph.node.insert(0, planes)
    _drop_unread(graph)
    _scale_after_pooling(graph)
    return True


def _readers(graph: onnx.GraphProto, name: str) -> list[NodeProto]:
    """The nodes that read a tensor."""
    return [node for node in graph.node if name in node.input]


def _scale_after_pooling(graph: onnx.GraphProto) -> None:
    """Turn products with a number round with the average pooling that alone reads them: there are fewer to multiply."""
    constants = {tensor.name for tensor in graph.initializer if int(np.prod(tensor.dims)) == 1}
    for scale in [node for node in graph.node if node.op_type in POWERS and node.input[1] in constants]:
        readers = _readers(graph, scale.output[0])
        if [node.op_type for node in readers] == ["AveragePool"]:
            (pool,) = readers
            result, between = pool.output[0], f"{pool.output[0]}_unscaled"
            pool.input[0], pool.output[0], scale.input[0], scale.output[0] = scale.input[0], between, between, result
            graph.node.remove(scale)
            graph.node.insert(list(graph.node).index(pool) + 1, scale)


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove nodes and constants that nothing reads any more."""
    results = {output.name for output in graph.output}
    while True:
        read = results | {name for node in graph.node for name in node.input}
        unread = [node for node in graph.node if not read & set(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)
