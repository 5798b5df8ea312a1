"""The tensorrt target: ONNX in the form that TensorRT 8.5 to 11 reads, and the recipe for building engines from it.

Engines are built on the device (`stcq build`, or first use): they fit one GPU, one TensorRT and one CUDA only. What is
special about the form: opset 16 (17 has LayerNormalization, which 8.5 lacks), plain float32 constants without casts
(TensorRT wants a convolution's weights as constants), uint8 only at the borders, nothing but int32 in the interface.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from ..errors import ExportError
from ..models.codec import CodecModel
from ..runtime.backends.tensorrt_recipe import RECIPE, Recipe
from .onnx_target import compute_types, read_back, write_graphs
from .request import Built, Request, relative
from .tensorrt_check import check_graphs

BACKEND = "tensorrt"
OPSET = 16
MAX_BATCH = 32
WORKSPACE_MIB = 512


def choose_opset(request: Request) -> int:
    """The opset of a request."""
    return request.opset or OPSET


def build(model: CodecModel, request: Request, bundle: Path) -> Built:
    """Write the variant into the bundle's `tensorrt` folder.

    Raises:
        ExportError: torch or the ONNX checker refused a graph, or no TensorRT would read it.
    """
    opset = choose_opset(request)
    folder = bundle / "tensorrt" / request.name.removeprefix("tensorrt-")
    half = request.precision == "fp16"
    files = write_graphs(model, folder, opset, request.batch, half=half, compact=False)
    paths = [folder / names[0] for names in files.values()]
    problems = check_graphs(paths)
    if all(problems.values()):
        version, first = next(iter(problems.items()))
        raise ExportError(f"no TensorRT from 8.5 to 10 reads these graphs; TensorRT {version}: {'; '.join(first[:3])}")
    recipe = make_recipe(paths, request.precision, request.batch)
    (folder / RECIPE).write_text(recipe.to_json())
    graphs = {graph: tuple(relative(folder / file, bundle) for file in names) for graph, names in files.items()}
    extra: dict[str, Any] = {
        "target": "tensorrt",
        "files": [relative(folder / RECIPE, bundle)],
        "read_by": [version for version, found in problems.items() if not found],
        "unsupported": {version: found for version, found in problems.items() if found},
    }
    return Built(BACKEND, graphs, read_back(paths), extra)


def make_recipe(paths: list[Path], precision: str, batch: int | None) -> Recipe:
    """How to build the engines of these graphs."""
    profiles: dict[str, dict[str, Any]] = {}
    types = {}
    for path in paths:
        proto = onnx.load(path, load_external_data=False)
        graph = proto.graph
        types[path.stem] = "fp16" if "fp16" in compute_types(proto) else "fp32"
        profiles[path.stem] = {}
        for value in graph.input:
            rest = [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
            low, high = (batch, batch) if batch else (1, MAX_BATCH)
            profiles[path.stem][value.name] = {"min": [low, *rest], "opt": [low, *rest], "max": [high, *rest]}
    return Recipe(precision, types, WORKSPACE_MIB, profiles)
