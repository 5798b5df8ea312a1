"""A stand-in for TensorRT: the recorded names of one release and no others, computing with ONNX Runtime on the host."""

from __future__ import annotations

import types
from typing import Any

from tensorrt_building import ILogger, parts
from tensorrt_names import SIGNATURES, enumerations
from tensorrt_running import StandInCuda, runtime

__all__ = ["SIGNATURES", "StandInCuda", "stand_in"]


def stand_in(release: str) -> Any:
    """The module `tensorrt` of a release; `module.built` lists what its builders were told.

    Its tests make it `refuse` to build, or give it `moods`: "PretendFp32", "CannotLoad".
    """
    trt: Any = types.SimpleNamespace(__version__=release, built=[], refuse=False, moods=set())
    vars(trt).update(enumerations(release))
    trt.ILogger = ILogger
    trt.Builder, trt.OnnxParser = parts(trt)
    trt.Runtime = runtime(trt)
    return trt
