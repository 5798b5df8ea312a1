"""int8 for ONNX Runtime, in the form that this CPU likes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from ..export.storage import shrink_constants
from ..runtime.bundle import Bundle
from ..runtime.machine import machine
from .floating import layers_of, load_float
from .onnx_int8 import FORMS, form_for, quantise
from .ranges import check_coverage, find_ranges
from .targets import Target


class OnnxTarget(Target):
    """Quantises the ONNX encoder of the fp32 sibling."""

    name = "onnx"
    runs_with = "onnxruntime"

    def __init__(self, bundle: Bundle, form: str = "") -> None:
        super().__init__(bundle)
        self.form = form or form_for(machine()["cpu_features"])
        self.about = {"form": self.form}
        if FORMS[self.form].needs:
            self.about["needs"] = list(FORMS[self.form].needs)
        self.proto = load_float(bundle.graph(self.sibling, "encoder"))
        self.ranges: Any = None

    def observe(self, batches: Callable[..., Any], golden: NDArray[np.uint8]) -> None:
        self.ranges = find_ranges(self.proto, batches())
        self.about["coverage"] = check_coverage(self.ranges, find_ranges(self.proto, [golden]))

    @property
    def layers(self) -> list[str]:
        return layers_of(self.proto)

    def build(self, folder: Path, floating: Collection[str] = ()) -> list[Path]:
        path = folder / "encoder.onnx"
        graph = quantise(self.proto, self.ranges, FORMS[self.form], floating)
        if not FORMS[self.form].pairs:  # what stays float, where the bundle's weights are of two bytes
            shrink_constants(graph)
        onnx.save(graph, path)
        return [path]


TARGET = OnnxTarget
