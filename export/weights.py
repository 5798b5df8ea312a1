"""Constants of ONNX graphs in files beside them, equal ones stored once, none copied through a protobuf."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from .storage import exact_half, is_exact_int8, quantize_books

SHARED_FROM = 1024  # bytes; smaller constants stay inside their graph
ALIGNMENT = 4096  # a page, so that runtimes can map a constant from the file
LARGE = 1_500_000_000  # bytes; from here codebooks stay float32, which runtimes map instead of converting to memory


class Place(NamedTuple):
    """Where a constant is stored."""

    file: str
    offset: int
    length: int


class WeightStore:
    """The files of weights of one folder; a constant goes into the file of the first graph that needs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[str, Place] = {}
        self._sizes: dict[str, int] = {}

    def put(self, value: NDArray[Any], file: str) -> Place:
        """Store an array's bytes unless equal ones are stored already."""
        raw = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data
        key = hashlib.sha256(raw).hexdigest()
        if key not in self._places:
            end = self._sizes.get(file, 0)
            start = end + -end % ALIGNMENT
            with (self.folder / file).open("ab") as target:
                target.write(bytes(start - end))
                target.write(raw)
            self._sizes[file] = start + len(raw)
            self._places[key] = Place(file, start, len(raw))
        return self._places[key]

    def share(self, proto: onnx.ModelProto, own: str) -> list[str]:
        """Move a graph's large constants out of it, in place.

        Args:
            proto: the graph.
            own: the file for constants that no earlier graph stored.

        Returns:
            The names of the files that the graph reads.
        """
        for tensor in proto.graph.initializer:
            if not tensor.external_data:
                value = numpy_helper.to_array(tensor)
                if value.nbytes >= SHARED_FROM:
                    point(tensor, self.put(value, own))
        return sorted(
            {entry.value for t in proto.graph.initializer for entry in t.external_data if entry.key == "location"}
        )


def point(tensor: onnx.TensorProto, place: Place) -> None:
    """Make a tensor read its bytes from a file."""
    for field in ("float_data", "int32_data", "int64_data"):
        tensor.ClearField(field)
    tensor.raw_data = b"x"  # set_external_data asks for it
    external_data_helper.set_external_data(tensor, place.file, place.offset, place.length)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


def attach(
    proto: onnx.ModelProto, constants: dict[str, NDArray[Any]], store: WeightStore, own: str, books: NDArray[Any] | None
) -> None:
    """Turn the inputs that stand for constants into constants, in place.

    Args:
        proto: a traced graph.
        constants: input name -> value.
        store: where they are written.
        own: the graph's file of weights.
        books: the codebooks (M, T or 1, K, d), to store them in fewer bytes where that is exact; None = plain float32.
    """
    graph = proto.graph
    inputs = [value for value in graph.input if value.name not in constants]
    names = [value.name for value in graph.input if value.name in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    nodes: list[onnx.NodeProto] = []
    for name in names:
        value = constants[name]
        if books is None or name != "books" or value.nbytes >= LARGE:
            _add(graph, name, value, store, own)
            continue
        if is_exact_int8(books):
            codes, scale = quantize_books(books)
            groups, tokens, count, dim = books.shape
            flat = codes.transpose(1, 3, 0, 2).reshape(tokens, dim, groups * count)  # (T, d, M*K)
            _add(graph, f"{name}_int8", flat, store, own)
            _add(graph, f"{name}_scale", scale.T.reshape(tokens, 1, groups, 1), store, own)
            shapes = {"cells": [tokens, dim, groups, count], "flat": list(flat.shape)}
            for what, shape in shapes.items():
                graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), f"{name}_{what}"))
            nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_float"], f"{name}_cast", to=1))
            for op, sources, output in (
                ("Reshape", (f"{name}_float", f"{name}_cells"), f"{name}_groups"),
                ("Mul", (f"{name}_groups", f"{name}_scale"), f"{name}_scaled"),
                ("Reshape", (f"{name}_scaled", f"{name}_flat"), name),
            ):
                nodes.append(helper.make_node(op, sources, [output], f"{output}_{op.lower()}"))
        elif (half := exact_half(value)).dtype == np.float16:
            _add(graph, f"{name}_half", half, store, own)
            nodes.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=1))
        else:
            _add(graph, name, value, store, own)
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)


def _add(graph: onnx.GraphProto, name: str, value: NDArray[Any], store: WeightStore, own: str) -> None:
    """Add an initializer."""
    if value.nbytes < SHARED_FROM:
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return
    tensor = TensorProto(name=name, dims=value.shape, data_type=helper.np_dtype_to_tensor_dtype(value.dtype))
    point(tensor, store.put(value, own))
    graph.initializer.append(tensor)
