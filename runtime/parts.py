"""Optional parts of stcq by name: imported when used, and a missing library names the extra that brings it."""

from __future__ import annotations

import importlib
from typing import Any

from ..errors import BackendMissing

EXTRAS = {
    "calibration.calibrate": "calibrate",
    "calibration.entropy": "calibrate",
    "calibration.gate": "calibrate",
    "calibration.rebook": "calibrate",
    "evaluation.ablation": "train,eval",
    "evaluation.command": "eval",
    "export.export": "export",
    "models.checkpoint": "export",
    "models.importing": "export",
    "profiling.plot": "profile",
    "runtime.camera.config": "camera",
    "runtime.camera.loop": "camera",
    "runtime.camera.mqtt_transport": "camera",
    "runtime.mqtt": "camera",
    "runtime.sealing": "camera",
    "server.mqtt": "server",
    "server.serve": "server",
    "server.services": "server",
    "server.tables": "server",
    "server.tokens": "server",
    "training.fit": "train",
    "training.recipe": "train",
    "training.train": "train",
}


def part(name: str) -> Any:
    """A module of an optional part of stcq.

    Raises:
        BackendMissing: its libraries are not installed; the message names the extra.
    """
    try:
        return importlib.import_module(f"..{name}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stcq"):
            raise
        raise BackendMissing(f"this needs {error.name}; run: pip install 'stcq[{EXTRAS.get(name, 'dev')}]'") from error
