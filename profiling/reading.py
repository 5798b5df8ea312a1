"""Reading what a machine says about itself: small files below a root, and commands. Nothing here raises."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

Ask = Callable[[Sequence[str]], str]


def ask(command: Sequence[str], seconds: float = 3) -> str:
    """What a command prints; empty when it is missing, fails or hangs. One that never ends is cut off after a while."""
    program = shutil.which(command[0])
    if program is None:
        return ""
    try:
        done = subprocess.run(
            [program, *command[1:]], stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, check=False
        )
        output = done.stdout if done.returncode == 0 else b""
    except subprocess.TimeoutExpired as late:  # tegrastats goes on for ever
        output = late.stdout or b""
    except OSError:
        output = b""
    return output.decode(errors="replace").strip()


def text(path: Path) -> str:
    """A small file's content; empty when it cannot be read (a sensor that is switched off raises EAGAIN)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \n")
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """A file's content as an integer."""
    found = text(path)
    return int(found) if re.fullmatch(r"[+-]?\d{1,18}", found) else None


def children(folder: Path, pattern: str) -> list[Path]:
    """Entries of a folder by a glob pattern, in the order of the numbers in their names; [] when it cannot be read."""
    try:
        found = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.name)] or [0])


def thermal_zones(root: Path) -> dict[str, float]:
    """Degrees Celsius by thermal zone; zones that are switched off are left out."""
    zones: dict[str, float] = {}
    for zone in children(root / "sys/class/thermal", "thermal_zone*"):
        value = number(zone / "temp")
        if value is not None and value > -200_000:
            zones[text(zone / "type") or zone.name] = value / 1000
    return zones
