"""Replacing a whole folder so that a reader sees the old one or the new one, and nothing else is left beside it.

The new folder is made in a scratch folder beside the old one and takes its place in one step: renameat2 with
RENAME_EXCHANGE, where the system has it (Linux >= 3.15 on ext4, btrfs, xfs, tmpfs, overlayfs). Elsewhere (macOS,
Windows, NFS, some FUSE file systems) it is two renames; a kill between them leaves the old folder in the scratch
folder, and the next call of `replacing` puts it back. It also removes what a killed process left behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .files import sync_folder
from .locks import lock_folder

AT_FDCWD, RENAME_EXCHANGE = -100, 2
UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM}


class FolderBusy(OSError):
    """Another process is replacing the same folder."""


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Give a new, empty folder; when the block ends without an error it replaces the target.

    Args:
        target: a folder, or nothing yet; its parent is made if missing. A link to a folder stays a link.

    Raises:
        FolderBusy: another process is replacing the target now.
        OSError: the disk is full or the parent not writable; the target is then what it was.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.stcq-new")
    with _locked(scratch):
        recover(target, scratch)
        new = scratch / "new"
        try:
            new.mkdir()
            yield new
            sync_files(new)
            _put(new, target, scratch / "old")
        finally:
            recover(target, scratch)
            scratch.rmdir()


def recover(target: Path, scratch: Path) -> None:
    """Empty a scratch folder; the old folder goes back if a kill between two renames left the target missing."""
    if (scratch / "old").is_dir() and not target.exists():
        (scratch / "old").rename(target)
    for entry in list(scratch.iterdir()):
        shutil.rmtree(entry)


@contextlib.contextmanager
def _locked(scratch: Path) -> Iterator[None]:
    """Make the scratch folder, or take over one whose process is gone."""
    handle = None
    try:
        while True:
            scratch.mkdir(exist_ok=True)
            try:
                handle = lock_folder(scratch)
            except BlockingIOError:
                raise FolderBusy(errno.EBUSY, "another process is writing it; wait for it to end") from None
            except FileNotFoundError:
                continue
            break
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _put(new: Path, target: Path, aside: Path) -> None:
    """Put `new` in the target's place; what was there is afterwards in the scratch folder."""
    if target.is_dir() and any(target.iterdir()):
        if not exchange(new, target):
            target.rename(aside)
            new.rename(target)
    else:
        with contextlib.suppress(FileNotFoundError):
            target.rmdir()
        new.rename(target)
    sync_folder(target.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot, and then nothing changed.

    Raises:
        OSError: the system can, but not here.
    """
    try:
        renameat2: Any = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):  # glibc < 2.28, macOS, Windows
        return False
    if renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(other))


def sync_files(folder: Path) -> None:
    """Give every file of a folder the usual rights (some libraries write 0600) and flush all to disk."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~mask)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under another name without copying its bytes, where the file system can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
