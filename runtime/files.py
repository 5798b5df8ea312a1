"""Writing files so that a reader sees the old content or the new, never half of it."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path

UNZIPPED = ".stcq-unzipped-"  # how the temporary copies of zipped bundles are named, and nothing that a person made
_numbers = itertools.count()  # two threads may write one path


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call write(temporary path), flush it to disk and rename it over path, which keeps its mode.

    A link stays, what it points to is replaced; a device or a pipe stays and is written to.

    Args:
        path: the final file; its folder must exist.
        write: fills the temporary file, which stands in the same folder.

    Raises:
        OSError: the disk is full, the folder not writable, or path is a folder; path is then untouched.
    """
    old = path.stat().st_mode if path.exists() else None
    if old is not None and stat.S_ISDIR(old):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if old is not None and not stat.S_ISREG(old):
        _fill(path, write)
        return
    path = path.resolve()
    temporary = path.with_name(f".{path.name[:50]}.{os.getpid()}.{next(_numbers)}.tmp")
    try:
        with temporary.open("xb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode if old is None else old)
        temporary.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # some libraries write a file of their own, 0600
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def _fill(path: Path, write: Callable[[Path], object]) -> None:
    """Write what belongs into a device or a pipe; the modules for it are slow to import and seldom needed."""
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / "content"
        write(temporary)
        with temporary.open("rb") as content, path.open("wb") as file:
            shutil.copyfileobj(content, file)


def cache_folder(name: str) -> Path:
    """A folder of the user's cache, not made yet: in $STCQ_CACHE, else in stcq of $XDG_CACHE_HOME or ~/.cache.

    A user without a home folder gets one that cannot be made.
    """
    if chosen := os.environ.get("STCQ_CACHE"):
        return Path(chosen) / name
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        base = Path(os.devnull)
    return base / "stcq" / name


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable, where the system can (POSIX) and this user may read the folder."""
    if os.name == "posix":
        try:
            handle = os.open(folder, os.O_RDONLY)
        except PermissionError:
            return
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
