"""The static check of ONNX graphs against what TensorRT's parsers read."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto

from .tensorrt_table import HIGHEST_OPSET, VERSIONS, operators

NAMES = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.INT64: "INT64",
    TensorProto.INT32: "INT32",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.BOOL: "BOOL",
}
TYPED_BY = {"Where": 1, "Cast": 0, "Shape": 0}  # which input's type the table means, where it is not the first
INDICES_ARE_NARROWED = ("8.5", "8.6")  # int64 becomes int32 with clamping


def unsupported(proto: onnx.ModelProto, version: str) -> list[str]:
    """What a version's parser would refuse in a graph, as short sentences; empty = it reads the graph.

    Args:
        proto: a graph with inferred types; weights may be outside.
        version: "8.5", "8.6" or "10".
    """
    table = operators(version)
    opset = next(o.version for o in proto.opset_import if not o.domain)
    problems = {} if opset <= HIGHEST_OPSET[version] else {f"opset {opset} is above {HIGHEST_OPSET[version]}": None}
    graph = proto.graph
    types = {v.name: v.type.tensor_type.elem_type for v in [*graph.input, *graph.output, *graph.value_info]}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    borders = {value.name for value in [*graph.input, *graph.output]}
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or node.op_type not in table:
            problems[f"{node.op_type} is no operator of its parser"] = None
            continue
        place = TYPED_BY.get(node.op_type, 0)
        used = [*([node.input[place]] if len(node.input) > place else []), *node.output[:1]]
        for name in used:
            kind = NAMES.get(types.get(name, 0), "an unknown type")
            if kind == "UINT8":
                if node.op_type != "Cast" or name not in borders:
                    problems[f"{node.op_type} on UINT8, which only a Cast at the border may touch"] = None
            elif kind == "INT64" and version in INDICES_ARE_NARROWED:
                if "INT32" not in table[node.op_type] and name in node.input:
                    problems[f"{node.op_type} on INT64"] = None
            elif kind not in table[node.op_type] and name in node.input:
                problems[f"{node.op_type} on {kind}"] = None
    return list(problems)


def check_graphs(paths: list[Path]) -> dict[str, list[str]]:
    """Version -> what it would refuse in any of these graphs, each with the graph's name."""
    found: dict[str, list[str]] = {version: [] for version in VERSIONS}
    for path in paths:
        proto = onnx.load(path, load_external_data=False)
        for version in VERSIONS:
            found[version] += [f"{path.stem}: {problem}" for problem in unsupported(proto, version)]
    return found
