"""Bundles in a .zip: extracted into a temporary folder, exactly the files that the zip's own manifest lists."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from pathlib import Path

from ..errors import BundleError
from .manifest import MAX_MANIFEST, Manifest


def extract(path: Path) -> Path:
    """Extract a zipped bundle.

    Returns:
        A new temporary folder; give it to `remove` when done.

    Raises:
        BundleError: no zip, no bundle in it, damaged, or files that its manifest does not list.
    """
    folder = Path(tempfile.mkdtemp(prefix="stcq-bundle-"))
    try:
        with zipfile.ZipFile(path) as archive:
            _extract(archive, folder)
    except BaseException as error:
        remove(folder)
        damage = (zipfile.BadZipFile, UnicodeDecodeError, NotImplementedError, RuntimeError, EOFError)
        if isinstance(error, damage):
            raise BundleError(f"is neither a bundle folder nor an undamaged zip of one ({error})") from error
        raise
    return folder


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    """Check every member against the manifest before it is written."""
    infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
    head = infos.get("manifest.json")
    if head is None or head.file_size > MAX_MANIFEST:
        raise BundleError("no bundle in this zip (manifest.json is missing at its top)")
    files = Manifest.from_json(archive.read(head).decode()).files
    sizes = {"manifest.json": head.file_size} | {name: entry.size for name, entry in files.items()}
    for name, info in infos.items():
        if info.file_size != sizes.get(name):
            raise BundleError(f"the manifest does not list {name!r} with this size; copy the bundle again")
        archive.extract(info, folder)


def remove(folder: Path) -> None:
    """Delete a temporary copy."""
    shutil.rmtree(folder, ignore_errors=True)
