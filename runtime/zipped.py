"""Bundles in a .zip: extracted into a temporary folder, exactly the files that the zip's own manifest lists.

The folder is locked (flock) for as long as its process lives, so that the next process that extracts a bundle can
tell what killed ones left behind, and removes it: where /tmp is memory, copies would fill a camera's.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from ..errors import BundleError
from .files import UNZIPPED
from .locks import lock_folder
from .manifest import MAX_MANIFEST, Manifest

KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others Python's readers inflate more than they are asked for
_locks: dict[Path, tuple[int, int]] = {}  # the process that made a copy, and the descriptor that keeps it


def extract(path: Path) -> Path:
    """Extract a zipped bundle.

    Returns:
        A new temporary folder; give it to `remove` when done.

    Raises:
        BundleError: no zip, no bundle in it, damaged, or files that its manifest does not list.
    """
    sweep()
    folder = _new_folder()
    try:
        with zipfile.ZipFile(path) as archive:
            _extract(archive, folder)
    except BaseException as error:
        remove(folder)
        damage = (zipfile.BadZipFile, UnicodeDecodeError, zlib.error, NotImplementedError, RuntimeError, EOFError)
        if isinstance(error, damage):
            raise BundleError(f"is neither a bundle folder nor an undamaged zip of one ({error})") from error
        raise
    return folder


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """Check every member against the manifest before it is written."""
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    head = infos.get("manifest.json")
    if head is None or head.file_size > MAX_MANIFEST:
        raise BundleError("no bundle in this zip (manifest.json is missing at its top); zip the content of its folder")
    if odd := next((info for info in infos.values() if info.compress_type not in KINDS), None):
        raise BundleError(f"{odd.filename!r} is compressed in a way that bundles are not; zip the folder with deflate")
    with archive.open(head) as file:
        files = Manifest.from_json(file.read(MAX_MANIFEST).decode()).files
    sizes = {"manifest.json": head.file_size} | {name: entry.size for name, entry in files.items()}
    needed, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if needed > free:
        raise BundleError(f"its files need {needed >> 20} MB in {folder.parent}, {free >> 20} are free; set TMPDIR")
    for name, info in infos.items():
        if info.file_size != sizes.get(name):
            raise BundleError(f"the manifest does not list {name!r} with this size; copy the bundle again")
        archive.extract(info, folder)


def remove(folder: Path) -> None:
    """Delete a temporary copy, unless this is a fork of the process that made it and may go on using it."""
    owner, handle = _locks.pop(folder, (os.getpid(), None))
    if owner != os.getpid():
        return
    shutil.rmtree(folder, ignore_errors=True)
    if handle is not None:
        with contextlib.suppress(OSError):  # a daemon has closed all there were
            os.close(handle)


def sweep() -> None:
    """Delete this user's temporary copies whose processes are gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{UNZIPPED}*"):
        with contextlib.suppress(OSError):  # another user's, in use, or gone meanwhile
            handle = lock_folder(folder)
            if handle is None:
                return  # a system without locks: whose processes live cannot be told
            try:
                if os.fstat(handle).st_uid == os.geteuid():
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def _new_folder() -> Path:
    """A new temporary folder, locked where the system can."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=UNZIPPED))
        try:
            handle = lock_folder(folder, wait=True)
        except FileNotFoundError:
            continue  # swept by another process before it was locked
        except OSError:
            return folder  # a file system without locks: nobody sweeps it either
        if handle is not None:
            _locks[folder] = os.getpid(), handle
        return folder
