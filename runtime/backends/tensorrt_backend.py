"""TensorRT on NVIDIA GPUs, where its Python package is installed; tensorrt_session.py says how it is run."""

from __future__ import annotations

import tensorrt

from .cuda import Cuda
from .tensorrt_session import TensorRtBackend

BACKEND = TensorRtBackend(tensorrt, Cuda)
