"""Bundles in a .zip: extracted into a temporary folder, exactly the files that the zip's own manifest lists."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path

from ..errors import BundleError
from .files import UNZIPPED
from .manifest import MAX_MANIFEST, Manifest

KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of others Python's readers inflate more than they are asked for


def extract(path: Path) -> Path:
    """Extract a zipped bundle.

    Returns:
        A new temporary folder; give it to `remove` when done.

    Raises:
        BundleError: no zip, no bundle in it, damaged, or files that its manifest does not list.
    """
    folder = Path(tempfile.mkdtemp(prefix=UNZIPPED))
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
    """Delete a temporary copy."""
    shutil.rmtree(folder, ignore_errors=True)
