"""What an export is asked for: one variant is a target, a precision, an opset and a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "fp16")
OPSET = 17  # what every JetPack from 5.1 on reads
OPSETS = range(13, 21)  # of torch's tracing exporter


@dataclass(frozen=True)
class Request:
    """One variant as requested.

    Attributes:
        target: "onnx", "openvino" or "tensorrt".
        precision: "fp32" or "fp16".
        opset: the ONNX opset; None = the target's own choice.
        batch: the fixed batch; None = free.
        winograd: whether "onnx" at fp32 may write convolutions in Winograd's form (export/winograd.py).
    """

    target: str
    precision: str = "fp32"
    opset: int | None = None
    batch: int | None = None
    winograd: bool = True

    @property
    def name(self) -> str:
        """The variant's name, such as "onnx-fp32" or "onnx-fp16-b1"."""
        return f"{self.target}-{self.precision}" + (f"-b{self.batch}" if self.batch else "")

    def to_dict(self, opset: int) -> dict[str, Any]:
        """The request as the manifest keeps it, with the target's choice of opset filled in."""
        batch: int | str = self.batch or "dynamic"
        return {"precision": self.precision, "opset": opset, "batch": batch}


@dataclass(frozen=True)
class Built:
    """What a target wrote.

    Attributes:
        backend: the runtime's backend that runs it.
        graphs: graph name -> its file, then the files of weights it reads, relative to the bundle.
        facts: precision, opset, batch and whatever else was read back from the written files.
        extra: more to keep in the manifest's variant.
    """

    backend: str
    graphs: dict[str, tuple[str, ...]]
    facts: dict[str, Any]
    extra: dict[str, Any]


def relative(path: Path, bundle: Path) -> str:
    """A file's name in the manifest."""
    return path.relative_to(bundle).as_posix()
