"""A bundle folder's files: which there are, how long they are, and what is in them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import BundleError
from .manifest import FileEntry, check_path

DEEPEST = 16  # folders in folders


def check_listing(folder: Path, listed: Mapping[str, FileEntry]) -> None:
    """Exactly the listed files are there, and manifest.json, each with its size, none a link.

    Raises:
        BundleError: the first that is not so.
    """
    found = dict(walk(folder))
    found.pop("manifest.json", None)
    if extra := sorted(set(found) - set(listed)):
        raise BundleError(f"the manifest does not list {extra[0]!r}; remove it or copy the bundle again")
    if missing := sorted(set(listed) - set(found)):
        raise BundleError(f"the file {missing[0]!r} is missing; copy the bundle again")
    for name, size in found.items():
        if size != listed[name].size:
            raise BundleError(f"{name} has {size} bytes, the manifest says {listed[name].size}; copy the bundle again")


def walk(folder: Path, prefix: str = "") -> list[tuple[str, int]]:
    """(path, size) of every file below a folder; links and special files are refused."""
    found: list[tuple[str, int]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                if name.count("/") > DEEPEST:
                    raise BundleError(f"{name!r:.60} lies too deep for a bundle; do not use it")
                found += walk(Path(entry.path), name + "/")
            elif entry.is_file(follow_symlinks=False):
                found.append((name, entry.stat(follow_symlinks=False).st_size))
            else:
                raise BundleError(f"{name!r} is a link or no plain file; do not use this bundle")
    return found


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def list_files(folder: Path) -> dict[str, FileEntry]:
    """The manifest's file list of a folder, without manifest.json."""
    entries = {}
    for name, size in walk(folder):
        if name != "manifest.json":
            check_path(name)
            entries[name] = FileEntry(size, sha256_of(folder / name))
    return entries
