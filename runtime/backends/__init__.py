"""Backends: what runs a graph. One file each, one surface (base.py), reached by the name -> module table here."""

from __future__ import annotations

import importlib

from ...errors import BackendError, BackendMissing
from .base import Backend

MODULES = {"onnxruntime": ("onnxruntime_backend", "onnxruntime")}
FIX = {"onnxruntime": "pip install onnxruntime"}


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
