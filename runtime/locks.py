"""Locks on folders that end with their process, however it ends."""

from __future__ import annotations

import os
from pathlib import Path

try:
    import fcntl
except ModuleNotFoundError:  # Windows: without locks, two writers at once are not noticed
    fcntl = None  # type: ignore[assignment]


def lock_folder(folder: Path, wait: bool = False) -> int | None:
    """Lock a folder (flock) until its descriptor is closed, by this process and its forks.

    Returns:
        The descriptor, or None where the system has no such locks.

    Raises:
        BlockingIOError: another process has it.
        FileNotFoundError: it is gone, perhaps since a moment ago.
        OSError: a link, no folder, or a file system without locks.
    """
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if not os.path.samestat(os.fstat(handle), folder.lstat()):
            raise FileNotFoundError(folder)  # its owner removed it between our two steps, and another one is there
    except BaseException:
        os.close(handle)
        raise
    return handle
