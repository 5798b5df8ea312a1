"""What int8 is written for: each target builds int8 encoders, and says what they are compared with."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendMissing, CalibrationError
from ..runtime.backends import open_backend
from ..runtime.backends.base import Session, SessionOptions
from ..runtime.bundle import Bundle
from ..runtime.manifest import Variant

MODULES = {"onnx": "onnx_target", "openvino": "openvino_target", "tensorrt": "tensorrt_target"}
FLOATS = ("fp32", "fp16")


class Target(ABC):
    """One target of one bundle.

    Attributes:
        name: "onnx", "openvino" or "tensorrt".
        variant: the name of the variant that it would add.
        runs_with: the backend that runs its encoders here.
        timed: whether this machine can time them: TensorRT's cannot be run without its GPU.
        about: what the manifest keeps of how int8 is written.
    """

    name: str
    runs_with: str
    timed = True

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.variant = f"{self.name}-int8"
        self.sibling = self._fp32()
        self.about: dict[str, Any] = {}

    @property
    def siblings(self) -> list[Variant]:
        """The bundle's float variants of this target with a free batch."""
        found = [v for v in self.bundle.manifest.variants if v.details.get("target") == self.name]
        return [v for v in found if v.precision in FLOATS and v.details["built"]["batch"] == "dynamic"]

    def _fp32(self) -> Variant:
        """The sibling that gives the encoder, and the graphs that stay float.

        Raises:
            CalibrationError: the bundle has none.
        """
        for variant in self.siblings:
            if variant.precision == "fp32":
                return variant
        raise CalibrationError(
            f"{self.bundle.source} has no {self.name}-fp32 variant to start from; {how_to_add(self.bundle, self.name)}"
        )

    @abstractmethod
    def observe(self, batches: Callable[..., Any], golden: NDArray[np.uint8]) -> None:
        """Look at the calibration pictures once.

        Args:
            batches: gives the pictures, (B, S, S, 3) uint8 at a time.
            golden: the bundle's own photographs, (N, S, S, 3): other pictures than these are refused.

        Raises:
            CalibrationError: the pictures are not what the codec was made for.
        """

    @property
    @abstractmethod
    def layers(self) -> list[str]:
        """Names of the layers that can stay float, in the order of the graph; empty = no mixed precision here."""

    @abstractmethod
    def build(self, folder: Path, floating: Collection[str] = ()) -> list[Path]:
        """Write an int8 encoder.

        Args:
            folder: an empty folder.
            floating: layers that stay float.

        Returns:
            The graph's file, then the files that it reads.
        """

    def open(self, files: Sequence[Path], threads: int) -> Session:
        """Open a written encoder on this machine."""
        return open_backend(self.runs_with).open(files[0], SessionOptions(threads))

    def finish(self, folder: Path) -> dict[str, Any]:
        """Complete the folder of a passed encoder for its bundle; what to add to the manifest's variant."""
        return {}


def how_to_add(bundle: Bundle, target: str) -> str:
    """What gives a bundle a target's fp32 variant: an export that rounds as its model was rounded.

    No checkpoint holds the codebooks of a refit, or of books that were rounded twice.
    """
    facts = bundle.manifest.provenance
    rounding = {kind: facts.get(kind, "fp32") for kind in ("weights", "codebooks")}
    if "rebooked" in facts:
        if {"refit", "before"} & set(facts["rebooked"]) or rounding["codebooks"] != "fp32":
            fix = f"change the codebooks of a bundle that has {target}-fp32"
            fix = "take another --target" if target == "openvino" else fix
            return f"no checkpoint holds its codebooks, so none can be exported; {fix}"
        rounding["codebooks"] = facts["rebooked"]["codebooks"]
    options = "".join(f" --{kind} {value}" for kind, value in rounding.items() if value != "fp32")
    return f"add it with: stcq-export CHECKPOINT -o {bundle.source} --target {target}{options}"


def load_target(name: str, bundle: Bundle) -> Target:
    """A target of a bundle.

    Raises:
        BackendMissing: a library is not installed; the message names the extra.
        CalibrationError: the bundle has no fp32 variant of it.
    """
    try:
        module = importlib.import_module(f".{MODULES[name]}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stcq"):
            raise
        raise BackendMissing(f"target {name} needs {error.name}; run: pip install 'stcq[calibrate]'") from error
    target: Target = module.TARGET(bundle)
    return target
