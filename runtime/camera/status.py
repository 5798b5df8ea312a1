"""The status file: written by the camera every two seconds, read by `stcq camera CONFIG --status`."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

from ...errors import CameraError

STALE = 15.0


def write_status(path: Path, status: dict[str, Any]) -> None:
    """Replace the file; not flushed to the disk, and a full disk is no reason to stop."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    content = json.dumps({"pid": os.getpid(), "written": time.time(), **status}, indent=2)
    with contextlib.suppress(OSError):
        try:
            temporary.write_text(content + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def read_status(path: Path) -> dict[str, Any]:
    """The last status, with "alive": whether that camera still runs and writes.

    Raises:
        CameraError: no status there.
    """
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        age, pid = time.time() - float(status["written"]), int(status["pid"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CameraError(f"{path} holds no status ({error}); has the camera run with this configuration?") from None
    alive = bool(status.get("running")) and _exists(pid) and abs(age) < STALE
    return {"alive": alive, "age_s": round(age, 1), **status}


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
