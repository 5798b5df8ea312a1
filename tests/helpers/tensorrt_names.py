"""The recorded names of a release of TensorRT: its enumerations, and classes that have these names and no others."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIGNATURES: dict[str, dict[str, dict[str, str]]] = json.loads(
    Path(__file__).with_name("tensorrt_signatures.json").read_text()
)


class Value(int):
    """A member of an enumeration."""

    name: str


class Strict:
    """An object that has the public names recorded for its class, with the recorded number of arguments."""

    recorded: dict[str, str]

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "recorded":
            return object.__getattribute__(self, name)
        if name not in self.recorded:
            raise AttributeError(f"this release of TensorRT has no {type(self).__name__}.{name}")
        found = object.__getattribute__(self, name)
        signature = self.recorded[name]
        if inspect.ismethod(found) and "*args" not in signature and "(" in signature:
            allowed = signature[signature.index("(") : signature.rindex(")")].count(": ") - 1  # without self
            most = len(inspect.signature(found).parameters)
            assert most <= allowed, f"{type(self).__name__}.{name} takes {allowed} arguments: {signature}"
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self.recorded.get(name) != "property rw":
            raise AttributeError(f"this release of TensorRT has no writable {type(self).__name__}.{name}")
        object.__setattr__(self, name, value)


def enumerations(release: str) -> dict[str, Any]:
    """Every enumeration of a release by its name."""
    found = {}
    for name, members in SIGNATURES[release].items():
        values = {m: Value(number) for number, m in enumerate(m for m, kind in members.items() if kind == "constant")}
        for member, value in values.items():
            value.name = member
        if values:
            found[name] = types.SimpleNamespace(**values)
    return found


def strict(release: str) -> Callable[[str], type[Strict]]:
    """A base class for the class of a name, as the release has it."""
    return lambda name: type(name, (Strict,), {"recorded": SIGNATURES[release][name]})
