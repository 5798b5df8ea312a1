"""3x3 convolutions in Winograd's form, for ONNX Runtime on CPUs, whose own kernels multiply every tap.

F(4x4, 3x3) of Winograd (1980) as in Lavin and Gray (2016), "Fast Algorithms for Convolutional Neural Networks": an
output tile Y of 4 x 4 comes of an input tile X of 6 x 6 and a kernel w as Y = A' [(G w G') * (B' X B)] A, which is 36
products for a pair of channels in the place of 144. Here it is a Gather, which cuts the overlapping tiles, products of
matrices for B, one over channels for each of the 36 places, and products for A.

Between convolutions a picture is rows of channels, (B, H W, C), those of a place in the tile together. ReLU and sums do
not mind the order, so a chain of all three takes that form once and leaves it once. Kernels are stored as they were:
runtimes compute G w G' when they load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, helper, numpy_helper

TILE = 4  # outputs of a tile along a side
SPAN = TILE + 2  # inputs
CHANNELS = 64  # at least: with fewer, moving tiles takes the time that fewer products save
SIDES = range(16, 65, TILE)  # smaller pictures have too few tiles for 36 matrices; larger ones would need much memory
PLAIN = {"strides": [1, 1], "dilations": [1, 1], "group": 1, "auto_pad": b"NOTSET"}  # also what is not said means

INPUT_TRANSFORM = [  # B' of the points 0, 1, -1, 2, -2 and infinity
    [4, 0, -5, 0, 1, 0],
    [0, -4, -4, 1, 1, 0],
    [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0],
    [0, 2, -1, -2, 1, 0],
    [0, 4, 0, -5, 0, 1],
]
KERNEL_TRANSFORM = np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24  # G
OUTPUT_TRANSFORM = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]  # A'


def tiled_places(height: int, width: int) -> NDArray[np.int64]:
    """Where the rows of the tiled form are in the picture: (H W,), by place in the tile, then by tile."""
    places = np.arange(height * width).reshape(height // TILE, TILE, width // TILE, TILE)
    return places.transpose(1, 3, 0, 2).reshape(-1)


def overlapping_places(height: int, width: int) -> NDArray[np.int64]:
    """Rows of the tiled form, and H W for a pixel beyond the border, of every input of every tile: (n n tiles,)."""
    rows = np.empty(height * width, np.int64)
    rows[tiled_places(height, width)] = np.arange(height * width)
    padded = np.pad(rows.reshape(height, width), 1, constant_values=height * width)
    tiles = np.lib.stride_tricks.sliding_window_view(padded, (SPAN, SPAN))[::TILE, ::TILE]  # (H/m, W/m, n, n)
    return tiles.transpose(2, 3, 0, 1).reshape(-1)


class Rewriter:
    """Writes a graph anew, with the convolutions that gain by it in Winograd's form."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.shapes = {value.name: dims(value) for value in [*graph.value_info, *graph.input, *graph.output]}
        self.rows: dict[str, str] = {}  # tensor -> its tiled form
        self.missing: set[str] = set()  # tensors that exist in the tiled form only

    def run(self) -> int:
        """Rewrite the graph; how many convolutions were."""
        count = 0
        for node in self.graph.node:
            if self.gains(node):
                self.convolve(node)
                count += 1
            elif node.op_type in ("Relu", "Add") and self.alike(node):
                self.rows[node.output[0]] = self.node(node.op_type, [self.rows[name] for name in node.input], node.name)
                self.missing.add(node.output[0])
            else:
                self.leave(node.input)
                self.nodes.append(node)
        self.leave([value.name for value in self.graph.output])
        del self.graph.node[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(self.constants.values())
        return count

    def alike(self, node: onnx.NodeProto) -> bool:
        """Whether all inputs of a node are there in the tiled form, of one shape."""
        first = self.shapes.get(node.input[0])
        return all(name in self.rows and self.shapes.get(name) == first for name in node.input)

    def gains(self, node: onnx.NodeProto) -> bool:
        """Whether a node is a convolution that is faster in this form."""
        if node.op_type != "Conv" or node.input[1] not in self.weights:
            return False
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        kernel, sides = list(self.weights[node.input[1]].dims), self.shapes.get(node.input[0], [])[2:]
        plain = found.get("pads") == [1] * 4 and all(found.get(name, value) == value for name, value in PLAIN.items())
        large = min(kernel[:2]) >= CHANNELS and len(sides) == 2 and all(side in SIDES for side in sides)
        return plain and large and kernel[2:] == [3, 3]

    def convolve(self, node: onnx.NodeProto) -> None:
        """One convolution, from and to the tiled form."""
        name, kernel = node.input[0], node.input[1]
        outputs, inputs = self.weights[kernel].dims[:2]
        height, width = self.shapes[name][2:]
        tiles = height * width // TILE**2
        x = self.node("Pad", [self.enter(name), self.constant("winograd_pad", np.array([0, 0, 0, 0, 1, 0]))], node.name)
        places = self.constant(f"winograd_tiles_{height}_{width}", overlapping_places(height, width))
        x = self.node("Gather", [x, places], node.name, axis=1)  # (B, n n tiles, C)
        x = self.both(x, "take", INPUT_TRANSFORM, tiles * inputs, node.name)
        x = self.reshape(x, [0, SPAN**2, tiles, inputs], node.name)
        x = self.node("MatMul", [x, self.kernels(kernel, outputs, inputs)], node.name)  # (B, n n, tiles, C')
        x = self.both(x, "give", OUTPUT_TRANSFORM, tiles * outputs, node.name)  # (B, m, m, tiles C')
        if len(node.input) > 2:
            copies = self.constant(f"winograd_copies_{tiles}", np.array([tiles]))
            x = self.node("Add", [x, self.node("Tile", [node.input[2], copies], node.name)], node.name)
        self.rows[node.output[0]] = self.reshape(x, [0, height * width, outputs], node.name)
        self.missing.add(node.output[0])

    def both(self, x: str, what: str, matrix: Sequence[Sequence[int]], size: int, name: str) -> str:
        """Tiles (B, n n, size) times a matrix (p, n) down and across: (B, p, p, size)."""
        outputs, inputs = len(matrix), len(matrix[0])
        constant = self.constant(f"winograd_{what}", np.array(matrix, np.float32))
        x = self.reshape(x, [0, inputs, inputs * size], name)
        x = self.reshape(self.node("MatMul", [constant, x], name), [0, outputs, inputs, size], name)
        return self.node("MatMul", [constant, x], name)

    def kernels(self, name: str, outputs: int, inputs: int) -> str:
        """Kernels (C', C, 3, 3) as (n n, C, C')."""
        weigh = self.constant(
            "winograd_weigh", np.kron(KERNEL_TRANSFORM, KERNEL_TRANSFORM).astype(np.float32)
        )  # (n n, 9)
        x = self.node("Transpose", [name], name, perm=[2, 3, 1, 0])
        x = self.node("MatMul", [weigh, self.reshape(x, [9, inputs * outputs], name)], name)
        return self.reshape(x, [SPAN**2, inputs, outputs], name)

    def enter(self, name: str) -> str:
        """The tiled form of a tensor (B, C, H, W)."""
        if name not in self.rows:
            channels, height, width = self.shapes[name][1:]
            x = self.reshape(name, [0, channels, height * width], name)
            x = self.node("Transpose", [x], name, perm=[0, 2, 1])
            places = self.constant(f"winograd_order_{height}_{width}", tiled_places(height, width))
            self.rows[name] = self.node("Gather", [x, places], name, axis=1)
        return self.rows[name]

    def leave(self, names: Sequence[str]) -> None:
        """Write tensors that exist in the tiled form only as they were."""
        for name in [name for name in names if name in self.missing]:
            channels, height, width = self.shapes[name][1:]
            back = np.argsort(tiled_places(height, width))
            places = self.constant(f"winograd_back_{height}_{width}", back)
            x = self.node("Gather", [self.rows[name], places], name, axis=1)
            x = self.node("Transpose", [x], name, perm=[0, 2, 1])
            self.reshape(x, [0, channels, height, width], name, result=name)
            self.missing.discard(name)

    def node(self, kind: str, inputs: list[str], name: str, result: str = "", **attributes: Any) -> str:
        """Add a node; its output's name."""
        result = result or f"{name}_winograd_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [result], f"{name}_{kind}_{len(self.nodes)}", **attributes))
        return result

    def reshape(self, tensor: str, shape: list[int], name: str, result: str = "") -> str:
        """Add a Reshape; 0 keeps a size."""
        size = self.constant("winograd_shape_" + "_".join(map(str, shape)), np.array(shape))
        return self.node("Reshape", [tensor, size], name, result)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """A constant, kept once."""
        self.constants.setdefault(name, numpy_helper.from_array(value, name))
        return name


def dims(value: onnx.ValueInfoProto) -> list[int]:
    """The shape of a tensor; 0 for what is free."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def to_winograd(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with its 3x3 convolutions in Winograd's form where that is faster; the graph itself if there are none."""
    if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for n in proto.graph.node for a in n.attribute):
        return proto  # what a branch or a loop reads of the graph around it is not followed
    written = onnx.ModelProto.FromString(proto.SerializeToString())
    if not Rewriter(written.graph).run():
        return proto
    del written.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(written, data_prop=True)
