"""The targets by name: which module writes one, which libraries it needs, and what `stcq-export --list` says."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from typing import Any, NamedTuple

from ..errors import BackendMissing
from ..runtime.backends import FIX, is_installed


class Target(NamedTuple):
    """One target.

    Attributes:
        module: its module in this package, with `build` and `choose_opset`.
        needs: libraries that writing it takes, beside torch.
        backend: the runtime's backend that runs it.
        precisions: what it can be written in.
        about: one line for people.
    """

    module: str
    needs: tuple[str, ...]
    backend: str
    precisions: tuple[str, ...]
    about: str


TARGETS = {
    "onnx": Target("onnx_target", ("onnx", "onnxslim"), "onnxruntime", ("fp32", "fp16"), "ONNX Runtime, any ONNX tool"),
    "openvino": Target(
        "openvino_target", ("onnx", "onnxslim", "openvino"), "openvino", ("fp32", "fp16"), "OpenVINO on CPUs and iGPUs"
    ),
    "tensorrt": Target(
        "tensorrt_target",
        ("onnx", "onnxslim"),
        "tensorrt",
        ("fp32", "fp16"),
        "TensorRT 8.5 to 11: ONNX and recipe, the engine is built on the device",
    ),
}
EXTRA = {"torch": "export", "onnx": "export", "onnxslim": "export", "safetensors": "export", "openvino": "openvino"}


def load_target(name: str) -> Any:
    """The module of a target.

    Raises:
        BackendMissing: a library is not installed; the message names the extra.
    """
    if missing := missing_libraries(name):
        raise BackendMissing(f"target {name} needs {', '.join(missing)}; run: {fix(missing)}")
    return importlib.import_module(f".{TARGETS[name].module}", __package__)


def missing_libraries(name: str) -> list[str]:
    """The libraries that writing a target lacks."""
    return [n for n in ("torch", "safetensors", *TARGETS[name].needs) if importlib.util.find_spec(n) is None]


def fix(missing: list[str]) -> str:
    """The command that installs missing libraries."""
    return f"pip install 'stcq[{','.join(sorted({EXTRA[name] for name in missing}))}]'"


def describe_targets() -> list[dict[str, Any]]:
    """What `--list` shows: each target, whether it can be written and run here, and the fix where not."""
    rows = []
    for name, target in TARGETS.items():
        missing = missing_libraries(name)
        runs = is_installed(target.backend)
        rows.append(
            {
                "target": name,
                "about": target.about,
                "precisions": list(target.precisions),
                "can_write": not missing,
                "missing": missing,
                "fix": fix(missing) if missing else None,
                "backend": target.backend,
                "can_run": runs,
                "run_fix": None if runs else FIX[target.backend],
                "version": version_of(target.backend),
            }
        )
    return rows


def version_of(library: str) -> str | None:
    """The installed version of a library; None = not installed."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "unknown" if importlib.util.find_spec(library) else None
