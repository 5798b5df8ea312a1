"""Backends: what runs a graph. One file each, one surface (base.py), reached by the name -> module table here."""

from __future__ import annotations

import importlib
import importlib.util

from ...errors import BackendError, BackendMissing
from .base import Backend

MODULES = {
    "onnxruntime": ("onnxruntime_backend", "onnxruntime"),
    "openvino": ("openvino_backend", "openvino"),
    "tensorrt": ("tensorrt_backend", "tensorrt"),
}
FIX = {
    "onnxruntime": "pip install onnxruntime",
    "openvino": "pip install 'stcq[openvino]'",
    "tensorrt": "sudo apt-get install python3-libnvinfer (JetPack), or TensorRT from NVIDIA for your CUDA version",
}


def is_installed(name: str) -> bool:
    """Whether the library of a backend is there; it is not imported."""
    spec = importlib.util.find_spec(MODULES[name][1]) if name in MODULES else None
    return spec is not None and spec.origin is not None  # a mere folder of that name has no origin


def open_backend(name: str) -> Backend:
    """The backend of a name.

    Raises:
        BackendMissing: its library is not installed; the message says how to install it.
        BackendError: there is no such backend.
    """
    if name not in MODULES:
        raise BackendError(f"backend {name!r} is unknown; this stcq has {', '.join(MODULES)}: upgrade stcq")
    module, library = MODULES[name]
    try:
        return Backend.of_module(importlib.import_module(f".{module}", __name__))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != library:
            raise
        raise BackendMissing(f"{library} is not installed; run: {FIX[name]}") from error
