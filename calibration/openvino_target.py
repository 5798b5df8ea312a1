"""int8 for OpenVINO, by NNCF's post-training quantisation."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..export.openvino_target import error_line, keep_names
from .targets import Target

SUBSET = 300  # NNCF's own default; it keeps statistics of so many pictures
LAYERS = ("Convolution", "GroupConvolution", "MatMul")


class OpenvinoTarget(Target):
    """Quantises the IR encoder of the fp32 sibling."""

    name = "openvino"
    runs_with = "openvino"

    @property
    def model(self) -> Any:
        """The float encoder, read anew: NNCF changes it."""
        return ov.Core().read_model(self.bundle.graph(self.sibling, "encoder"))

    def observe(self, batches: Callable[..., Any], golden: NDArray[np.uint8]) -> None:
        self.pictures = np.concatenate(list(batches(SUBSET)))
        self.about = {"nncf": nncf.__version__, "openvino": ov.__version__, "pictures": len(self.pictures)}

    @property
    def layers(self) -> list[str]:
        return [node.get_friendly_name() for node in self.model.get_ordered_ops() if node.get_type_name() in LAYERS]

    def build(self, folder: Path, floating: Collection[str] = ()) -> list[Path]:
        scope = nncf.IgnoredScope(names=sorted(floating)) if floating else None
        data = nncf.Dataset([picture[None] for picture in self.pictures])
        path = folder / "encoder.xml"
        try:
            with contextlib.redirect_stdout(sys.stderr):  # its progress bars; stdout may be JSON
                quantised = nncf.quantize(self.model, data, subset_size=len(self.pictures), ignored_scope=scope)
            keep_names(quantised, ("image", "latents"))
            ov.serialize(quantised, path, path.with_suffix(".bin"))
        except Exception as error:  # NNCF and OpenVINO raise many kinds
            raise CalibrationError(f"NNCF cannot quantise the encoder: {error_line(error)}") from error
        return [path, path.with_suffix(".bin")]


TARGET = OpenvinoTarget
