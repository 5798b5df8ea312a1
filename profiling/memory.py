"""Resident memory of this process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .reading import text

FIELDS = {"resident_mb": "VmRSS", "peak_mb": "VmHWM", "private_mb": "RssAnon", "files_mb": "RssFile"}


def memory(root: Path = Path("/")) -> dict[str, Any]:
    """Megabytes (1e6) now: resident, at its peak, private, and of mapped files (shared with other processes).

    "unknown" where the kernel does not say.
    """
    status = text(root / "proc/self/status")
    found = {name: re.search(rf"^{field}:\s*(\d+) kB", status, re.M) for name, field in FIELDS.items()}
    return {name: round(int(match[1]) * 1024 / 1e6, 1) if match else "unknown" for name, match in found.items()}
