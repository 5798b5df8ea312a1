"""ONNX Runtime on the CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ...errors import BackendError
from .base import Arrays, Backend, Session, SessionOptions, TensorSpec, first_line

DTYPES = {
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
}


class OnnxRuntimeSession(Session):
    """A graph in an ort.InferenceSession."""

    def __init__(self, graph: Path, options: SessionOptions) -> None:
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = options.threads
        settings.inter_op_num_threads = 1
        settings.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        settings.log_severity_level = 4  # errors come as exceptions
        try:
            self._session: Any = ort.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types share no base class
            raise BackendError(f"onnxruntime cannot open {graph.name}: {first_line(error)}") from error
        _release()
        self.inputs = {node.name: _spec(node) for node in self._session.get_inputs()}
        self.outputs = {node.name: _spec(node) for node in self._session.get_outputs()}

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        if self._session is None:
            raise BackendError("session is closed; open the graph again")
        try:
            values = self._session.run(None, dict(feeds))
        except Exception as error:  # see above
            raise BackendError(f"onnxruntime failed: {first_line(error)}") from error
        return dict(zip(self.outputs, values, strict=True))

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend(Backend):
    """Opens .onnx files."""

    name = "onnxruntime"

    def open(self, graph: Path, options: SessionOptions) -> Session:
        return OnnxRuntimeSession(graph, options)


def _release() -> None:
    """Give back what opening a graph took and freed: constants as stored and half-way; glibc would keep it."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def _spec(node: Any) -> TensorSpec:
    """ONNX Runtime's description of an input or output as a TensorSpec."""
    if node.type not in DTYPES:
        raise BackendError(f"graph tensor {node.name!r} has type {node.type}, which stcq graphs never use")
    return TensorSpec(np.dtype(DTYPES[node.type]), tuple(n if isinstance(n, int) else None for n in node.shape))


BACKEND = OnnxRuntimeBackend()
