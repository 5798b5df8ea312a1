"""`stcq doctor`: what this machine can run and write, and one line of fix for what it cannot. Installs nothing."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from ..errors import BackendMissing
from .backends import FIX, is_installed
from .machine import machine
from .onnx_opset import highest_opset

OPSET = 17  # of the graphs that stcq-export writes for onnx by default
PYTHON = (3, 11)
# TensorRT release -> highest opset of its parser (docs/operators.md of github.com/onnx/onnx-tensorrt), newest first
TENSORRT_OPSETS = (((11, 4), 25), ((10, 15), 24), ((10, 0), 20), ((8, 5), 17))
EXPORT = ("torch", "onnx", "onnxslim", "safetensors")


def doctor(target: str | None = None) -> dict[str, Any]:
    """Examine this machine.

    Args:
        target: only this one of "onnx", "openvino" and "tensorrt"; None = all.

    Returns:
        "machine" with its facts, "problems" of stcq itself, "targets": name -> "run", "version", "opset", "precisions",
        "details", "problems", and "export" with what `stcq-export` lacks; a problem has "problem" and "fix".
    """
    facts = machine()
    checks = {"onnx": check_onnxruntime, "openvino": check_openvino, "tensorrt": check_tensorrt}
    results = {name: check(facts) for name, check in checks.items() if target in (None, name)}
    missing = [name for name in EXPORT if importlib.util.find_spec(name) is None]
    problems = (
        [] if sys.version_info >= PYTHON else [_problem(f"Python {facts['python']}", "install Python 3.11 or newer")]
    )
    export = {"ready": not missing, "missing": missing, "fix": "pip install 'stcq[export]'" if missing else None}
    return {"machine": facts, "problems": problems, "targets": results, "export": export}


def check_onnxruntime(facts: dict[str, Any]) -> dict[str, Any]:
    """ONNX Runtime: version, providers and the highest opset that it opens."""
    if not is_installed("onnxruntime"):
        return _missing("onnxruntime")
    try:
        ort = importlib.import_module("onnxruntime")
        opset = highest_opset(ort)
        providers = list(ort.get_available_providers())
    except Exception as error:  # a broken wheel: ImportError of a shared library, or worse
        return _broken("onnxruntime", error)
    problems = []
    if opset < OPSET:
        problems.append(_problem(f"opens opset {opset} at most", "pip install --upgrade onnxruntime"))
    native = "asimdhp" in facts["cpu_features"] or "avx512_fp16" in facts["cpu_features"]
    fp16 = "fp16 is computed natively where it has kernels" if native else "fp16 is stored, and computed as fp32"
    details = {"providers": providers, "fp16": fp16, "used": "CPUExecutionProvider"}
    return _result(ort.__version__, opset, ["fp32", "fp16"], details, problems, run=opset >= OPSET)


def check_openvino(facts: dict[str, Any]) -> dict[str, Any]:
    """OpenVINO: version, devices, and the types that they compute in."""
    if not is_installed("openvino"):
        return _missing("openvino")
    try:
        ov = importlib.import_module("openvino")
        core = ov.Core()
        devices = {name: openvino_device(core, name) for name in core.available_devices}
    except Exception as error:  # OpenVINO raises RuntimeError, and ImportError for missing system libraries
        return _broken("openvino", error)
    problems = []
    intel = [gpu for gpu in facts["gpus"] if gpu["vendor"] == "intel"]
    if intel and not any(name.startswith("GPU") for name in devices):
        fix = (
            "sudo apt-get install intel-opencl-icd"
            if intel[0]["usable"]
            else "sudo usermod -aG render $USER, log in again"
        )
        problems.append(_problem("the Intel GPU is not visible to OpenVINO", fix))
    if "CPU" not in devices:
        problems.append(_problem("no CPU device", FIX["openvino"]))
    return _result(ov.__version__, None, ["fp32", "fp16"], {"devices": devices}, problems, run="CPU" in devices)


def openvino_device(core: Any, device: str) -> dict[str, Any]:
    """What OpenVINO says of a device; "unknown" for what this one (an NPU, an old driver) does not know."""

    def ask(name: str, read: Callable[[Any], Any]) -> Any:
        try:
            return read(core.get_property(device, name))
        except Exception:  # RuntimeError, and TypeError or AttributeError of a value of another type
            return "unknown"

    return {
        "name": ask("FULL_DEVICE_NAME", str),
        "computes": ask("OPTIMIZATION_CAPABILITIES", sorted),
        "automatic": ask("INFERENCE_PRECISION_HINT", lambda kind: kind.get_type_name()),
    }


def check_tensorrt(facts: dict[str, Any]) -> dict[str, Any]:
    """TensorRT: version, CUDA and GPU; nothing is built."""
    gpus = [gpu for gpu in facts["gpus"] if gpu["vendor"] == "nvidia"]
    problems = []
    if not gpus and facts["jetpack"] is None:
        problems.append(_problem("no NVIDIA GPU", "use the onnx or openvino target on this machine"))
    if not is_installed("tensorrt"):
        result = _missing("tensorrt")
        return result | {"problems": problems or result["problems"]}
    try:
        trt = importlib.import_module("tensorrt")
        version = str(trt.__version__)
    except Exception as error:  # ImportError of libnvinfer.so
        return _broken("tensorrt", error)
    try:
        gpu = importlib.import_module(".backends.cuda", __package__).Cuda().gpu()._asdict()
    except Exception as error:  # no libcudart, no driver, or no GPU
        gpu = None
        fix = str(error).partition("; ")[2] if isinstance(error, BackendMissing) else "install the GPU's driver"
        problems.append(_problem(f"CUDA cannot be used: {error}".partition("; ")[0], fix))
    release = tuple(int(part) for part in version.split(".")[:2])
    opset = next((highest for since, highest in TENSORRT_OPSETS if release >= since), None)
    if opset is None:
        problems.append(_problem(f"TensorRT {version} is too old", "JetPack 5.1 or newer, TensorRT 8.5 or newer"))
    precision = "from the graph (strongly typed)" if release >= (10, 0) else "builder flags, distances pinned to fp32"
    details = {"gpu": gpu, "precision": precision, "jetpack": facts["jetpack"]}
    return _result(version, opset, ["fp32", "fp16"], details, problems, run=gpu is not None and opset is not None)


def _result(
    version: str, opset: int | None, precisions: list[str], details: dict[str, Any], problems: list[Any], *, run: bool
) -> dict[str, Any]:
    """A target's entry."""
    facts = {"run": run, "version": version, "opset": opset, "precisions": precisions}
    return facts | {"details": details, "problems": problems}


def _problem(problem: str, fix: str) -> dict[str, str]:
    """What is wrong and the one line that mends it."""
    return {"problem": problem, "fix": fix}


def _missing(backend: str) -> dict[str, Any]:
    """The entry of a backend whose library is not installed."""
    problems = [_problem(f"{backend} is not installed", FIX[backend])]
    return {"run": False, "version": None, "opset": None, "precisions": [], "details": {}, "problems": problems}


def _broken(backend: str, error: Exception) -> dict[str, Any]:
    """The entry of a library that is installed and does not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    fix = (
        f"pip install --force-reinstall {backend}"
        if backend != "tensorrt"
        else "install it again with JetPack's packages"
    )
    entry = _missing(backend)
    return entry | {"problems": [_problem(f"{backend} does not load: {reason}", fix)]}
