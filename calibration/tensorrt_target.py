"""int8 for TensorRT: an ONNX graph with symmetric pairs from which the device builds its engine.

Judged here by ONNX Runtime, which computes the same integers' values; its time is the device's to measure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import CalibrationError
from ..export.tensorrt_check import check_graphs
from ..runtime.backends.tensorrt_recipe import RECIPE, Recipe
from ..runtime.bundle import Bundle
from .onnx_target import OnnxTarget


class TensorrtTarget(OnnxTarget):
    """Quantises the ONNX encoder of the tensorrt-fp32 sibling."""

    name = "tensorrt"
    timed = False

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, "tensorrt")
        self.read_by: list[str] = []

    def build(self, folder: Path, floating: Collection[str] = ()) -> list[Path]:
        files = super().build(folder, floating)
        problems = check_graphs(files[:1])
        self.read_by = [version for version, found in problems.items() if not found]
        if not self.read_by:
            version, found = next(iter(problems.items()))
            raise CalibrationError(f"no TensorRT reads the int8 graph; TensorRT {version}: {'; '.join(found[:3])}")
        return files

    def finish(self, folder: Path) -> dict[str, Any]:
        sibling = Recipe.load(self.bundle.file(next(f for f in self.sibling.files if f.endswith(RECIPE))))
        recipe = dataclasses.replace(
            sibling,
            precision="int8",
            types={"encoder": "int8"},
            profiles={"encoder": sibling.profiles["encoder"]},
        )
        (folder / RECIPE).write_text(recipe.to_json())
        return {"read_by": self.read_by}


TARGET = TensorrtTarget
