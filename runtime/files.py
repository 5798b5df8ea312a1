"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), flush it to disk and rename it over path.

    Args:
        path: the final file; its folder must exist.
        write: fills the temporary file, which stands in the same folder.

    Raises:
        OSError: the disk is full or the folder not writable; path is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, not made yet: in $STCQ_CACHE, else in stcq of $XDG_CACHE_HOME or ~/.cache."""
    if chosen := os.environ.get("STCQ_CACHE"):
        return Path(chosen) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "stcq" / name


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable, where the system can (POSIX)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
