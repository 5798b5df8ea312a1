"""recipe.json: how to build TensorRT engines from the ONNX graphs beside it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import BackendError

RECIPE = "recipe.json"
FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """What an engine needs beside its ONNX graph.

    Attributes:
        precision: "fp32", "fp16" or "int8"; the graphs' own types say which tensor has which.
        types: graph name -> what it multiplies in, which an engine must have too.
        workspace_mib: scratch memory of the builder.
        profiles: graph name -> input name -> "min", "opt" and "max" shape.
    """

    precision: str
    types: dict[str, str]
    workspace_mib: int
    profiles: dict[str, dict[str, dict[str, list[int]]]]

    def to_json(self) -> str:
        """The file's text, with a trtexec line for each graph for those who build by hand."""
        document = {
            "format": FORMAT,
            "precision": self.precision,
            "types": self.types,
            "workspace_mib": self.workspace_mib,
            "profiles": self.profiles,
            "typing": "that of the graphs, strongly typed from TensorRT 10 on; before, layers traced under 'network' "
            "may be fp16 and the rest is pinned to fp32",
            "tf32": False,
            "trtexec": {graph: self.trtexec(graph) for graph in self.profiles},
        }
        return json.dumps(document, indent=2) + "\n"

    def trtexec(self, graph: str) -> str:
        """A command that builds the same engine, TensorRT >= 10 (before: --fp16 instead of --stronglyTyped)."""
        shapes = []
        for which in ("min", "opt", "max"):
            sizes = ",".join(f"{name}:{'x'.join(map(str, p[which]))}" for name, p in self.profiles[graph].items())
            shapes.append(f"--{which}Shapes={sizes}")
        return f"trtexec --onnx={graph}.onnx --stronglyTyped --noTF32 {' '.join(shapes)} --saveEngine={graph}.engine"

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """Read the recipe beside a graph.

        Raises:
            BackendError: it is missing, damaged or from a newer stcq.
        """
        try:
            data: Any = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise BackendError(f"{path.name} has format {data['format']!r}, this stcq reads {FORMAT}: upgrade stcq")
            precision, workspace = str(data["precision"]), int(data["workspace_mib"])
            types = {str(graph): str(kind) for graph, kind in data["types"].items()}
            profiles = {
                str(graph): {
                    str(name): {which: [int(n) for n in profile[which]] for which in ("min", "opt", "max")}
                    for name, profile in inputs.items()
                }
                for graph, inputs in data["profiles"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(f"{path.name} is missing or damaged ({error}); export the bundle again") from error
        return cls(precision, types, workspace, profiles)
