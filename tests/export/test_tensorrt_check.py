"""What the recorded releases of TensorRT read, by their tables: the exported form passes, other graphs are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from stcq.export.tensorrt_check import check_graphs, unsupported
from stcq.export.tensorrt_table import operators
from stcq.runtime.bundle import Bundle


def test_the_exported_form_is_read_by_every_release(targets_bundle: Path) -> None:
    for variant in Bundle(targets_bundle).manifest.variants:
        if variant.backend == "tensorrt":
            paths = [targets_bundle / files[0] for files in variant.graphs.values()]
            assert check_graphs(paths) == {"8.5": [], "8.6": [], "10": []}
            assert variant.details["read_by"] == ["8.5", "8.6", "10"]
            for path in paths:
                kinds = {v.type.tensor_type.elem_type for v in onnx.load(path).graph.input}
                assert onnx.TensorProto.INT64 not in kinds


def model(operator: str, kind: int = onnx.TensorProto.FLOAT, opset: int = 17, **attributes: Any) -> onnx.ModelProto:
    value = [onnx.helper.make_tensor_value_info(name, kind, [2, 3]) for name in "xy"]
    node = onnx.helper.make_node(operator, ["x"], ["y"], name="n", **attributes)
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("proto", "problems"),
    [
        (model("Relu"), ["", "", ""]),
        (model("Relu", opset=18), ["opset 18", "opset 18", ""]),
        (model("LayerNormalization", axis=-1), ["LayerNormalization", "", ""]),
        (model("Det"), ["Det", "Det", "Det"]),
        (model("Transpose", onnx.TensorProto.UINT8), ["UINT8", "UINT8", "UINT8"]),
        (model("Cast", onnx.TensorProto.UINT8, to=onnx.TensorProto.UINT8), ["", "", ""]),
        (model("Neg", onnx.TensorProto.INT64), ["", "", ""]),
        (model("Sigmoid", onnx.TensorProto.INT64), ["INT64", "INT64", "INT64"]),
        (model("ArgMin", onnx.TensorProto.INT32), ["INT32", "", ""]),
        (model("Relu", onnx.TensorProto.DOUBLE), ["unknown", "unknown", "unknown"]),
    ],
)
def test_what_the_check_refuses(proto: onnx.ModelProto, problems: list[str]) -> None:
    for version, expected in zip(("8.5", "8.6", "10"), problems, strict=True):
        found = unsupported(proto, version)
        assert bool(found) == bool(expected), (version, found)
        assert expected in " ".join(found)


def test_tables_only_grow() -> None:
    old, middle, new = operators("8.5"), operators("8.6"), operators("10")
    assert all(types <= middle[name] for name, types in old.items())
    assert all(types <= new[name] for name, types in middle.items())
    assert "LayerNormalization" in set(middle) - set(old)
