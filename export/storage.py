"""How a bundle stores its numbers: in as few bytes as hold them exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

LEAST = np.float32(2.0**-16)  # scale of a weight's channel: below it fp16 has too few digits
SMALL = 1024  # numbers; smaller constants are not worth a Cast


def quantize_books(books: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with one scale for each book: codes of (M, T, K, d) and scales (M, T).

    Codes times scale give back, bit for bit, books that were made by this function.
    """
    scale = np.abs(books).max((2, 3)).astype(np.float32) / np.float32(127)  # (M, T)
    scale = np.where(scale > 0, scale, np.float32(1))
    codes = np.rint(books / scale[:, :, None, None]).astype(np.int8)
    return codes, scale


def stored_books(books: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Codebooks (M, T or 1, K, d) in the fewest bytes that hold them exactly: the tensors of codebooks.safetensors."""
    if is_exact_int8(books):
        codes, scale = quantize_books(books)
        return {"codebooks": codes, "scale": scale}
    return {"codebooks": exact_half(books)}


def is_exact_int8(books: NDArray[np.float32]) -> bool:
    """Whether int8 with a scale holds books (M, T or 1, K, d) exactly; group by group, they may be gigabytes."""
    for start in range(len(books)):
        group = books[start : start + 1]
        codes, scale = quantize_books(group)
        if not np.array_equal(codes.astype(np.float32) * scale[:, :, None, None], group):
            return False
    return True


def quantize_weight(weight: NDArray[np.float32], axis: int = 0) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Symmetric int8 with a scale for each channel of an axis: codes of the weight's shape, and scales to multiply.

    Scales are numbers that fp16 holds, so codes times scale are exact, and this function finds both in them again
    (a channel of nothing but tiny numbers has fewer steps, for that).
    """
    others = tuple(i for i in range(weight.ndim) if i != axis % weight.ndim)
    scale = (np.abs(weight).max(others, keepdims=True) / np.float32(127)).astype(np.float16).astype(np.float32)
    scale = np.maximum(scale, LEAST)
    return np.rint(weight / scale).clip(-127, 127).astype(np.int8), scale


def exact_bytes(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]] | None:
    """Codes and scales that give a weight back bit for bit, by channels of its first or last axis, or None."""
    for axis in (0, -1) if weight.ndim > 1 else ():
        codes, scale = quantize_weight(weight, axis)
        if np.array_equal(codes * scale, weight):
            return codes, scale
    return None


def exact_half(values: NDArray[np.float32]) -> NDArray[Any]:
    """Values in float16 when that changes none, else as they are."""
    with np.errstate(over="ignore"):
        for part in values if values.ndim > 1 else [values]:
            if not np.array_equal(part.astype(np.float16).astype(np.float32), part):
                return values
        return values.astype(np.float16)


def shrink_constants(
    proto: onnx.ModelProto, *, scoped: Callable[[str], bool] | None = None, exact: bool = True
) -> None:
    """Store fp32 constants of a graph in fp16 with a Cast to fp32 behind each; arithmetic stays fp32. In place.

    Those that fp16 does not hold, but int8 with a scale per channel does, become that, a Cast and a product. Runtimes
    fold both when they load.

    Args:
        proto: the graph.
        scoped: only constants used by nodes whose name this function accepts; None = all.
        exact: leave constants alone that fp16 would change; False rounds them.
    """
    graph = proto.graph
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    casts, scales = [], []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < SMALL:
            continue
        if scoped is not None and not all(scoped(node.name) for node in users.get(tensor.name, [])):
            continue
        value = numpy_helper.to_array(tensor)
        half = exact_half(value) if exact else value.astype(np.float16)
        name = tensor.name
        if half.dtype == np.float16:
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            casts.append(helper.make_node("Cast", [f"{name}_half"], [name], f"{name}_cast", to=TensorProto.FLOAT))
        elif (found := exact_bytes(value)) is not None:
            codes, scale = found
            tensor.CopyFrom(numpy_helper.from_array(codes, f"{name}_codes"))
            scales.append(numpy_helper.from_array(scale, f"{name}_scale"))
            casts += [
                helper.make_node("Cast", [f"{name}_codes"], [f"{name}_cast"], f"{name}_cast", to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name], f"{name}_scaled"),
            ]
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.initializer.extend(scales)
