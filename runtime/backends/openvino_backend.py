"""OpenVINO on the CPU (or another device of this machine), always in float32 unless asked otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from ...errors import BackendError
from .base import Arrays, Backend, Session, SessionOptions, TensorSpec, first_line

DTYPES = {"u8": np.uint8, "i32": np.int32, "i64": np.int64, "f32": np.float32}


@cache
def core() -> Any:
    """OpenVINO's Core, one for the whole process and until its end.

    The CPU plugin of each Core gives the thread that loads it a stack for signals. Of several Cores that go in another
    order than they came a freed stack stays behind, and the next signal with a handler (a camera's SIGTERM) crashes.
    """
    return ov.Core()


class OpenVinoSession(Session):
    """A graph in a compiled model with one inference request."""

    def __init__(self, graph: Path, options: SessionOptions) -> None:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        if options.precision != "auto":
            settings |= {"INFERENCE_PRECISION_HINT": options.precision, "EXECUTION_MODE_HINT": "ACCURACY"}
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            model = core().read_model(graph)
            compiled = core().compile_model(model, "CPU", settings)
            self._request: Any = compiled.create_infer_request()
            self.precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        except Exception as error:  # OpenVINO raises RuntimeError for everything
            raise BackendError(f"openvino cannot open {graph.name}: {_reason(error)}") from error
        # not the compiled model's names: compiling adds those of casts that vanished
        self.inputs = {port.any_name: _spec(port) for port in model.inputs}
        self.outputs = {port.any_name: _spec(port) for port in model.outputs}

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        if self._request is None:
            raise BackendError("session is closed; open the graph again")
        try:
            self._request.infer([np.ascontiguousarray(feeds[name]) for name in self.inputs])
            return {name: self._request.get_output_tensor(i).data.copy() for i, name in enumerate(self.outputs)}
        except Exception as error:  # see above
            raise BackendError(f"openvino failed: {_reason(error)}") from error

    def close(self) -> None:
        self._request = None


class OpenVinoBackend(Backend):
    """Opens .xml files with their .bin beside them."""

    name = "openvino"

    def open(self, graph: Path, options: SessionOptions) -> Session:
        return OpenVinoSession(graph, options)


def _spec(port: Any) -> TensorSpec:
    """OpenVINO's description of an input or output as a TensorSpec."""
    kind = port.element_type.get_type_name()
    if kind not in DTYPES:
        raise BackendError(f"graph tensor {port.any_name!r} has type {kind}, which stcq graphs never use")
    shape = tuple(None if size.is_dynamic else size.get_length() for size in port.partial_shape)
    return TensorSpec(np.dtype(DTYPES[kind]), shape)


def _reason(error: Exception) -> str:
    """OpenVINO's message is a list of source lines, and the last one says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else first_line(error)


BACKEND = OpenVinoBackend()
