"""Where many pictures come from: a folder or a zip."""

from __future__ import annotations

import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError

try:
    from lzma import LZMAError
except ModuleNotFoundError:  # some Pythons of small systems are built without; then zipfile knows no such member either
    LZMAError = zlib.error  # type: ignore[misc, assignment]

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}
DAMAGE = (zipfile.BadZipFile, zlib.error, LZMAError, EOFError, RuntimeError, NotImplementedError)  # of a zip
ZIP_START = b"PK\x03\x04"  # of a zip's first file; what makes it a zip is at its end


@dataclass
class Source:
    """A folder or a zip of pictures; `names` are sorted, zips are opened once per process."""

    path: Path
    names: list[str]
    _zip: zipfile.ZipFile | None = None
    _process: int = 0

    def read(self, name: str) -> bytes:
        """The bytes of one picture.

        Raises:
            ImageError: it cannot be read.
        """
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            if self._zip is None or self._process != os.getpid():  # a forked worker shares the place in an open file
                self._zip, self._process = zipfile.ZipFile(self.path), os.getpid()
            return self._zip.read(name)
        except (OSError, *DAMAGE) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise ImageError(f"its file cannot be read: {reason}; copy it again") from error

    def __getstate__(self) -> dict[str, object]:
        """Worker processes open the zip for themselves."""
        return {"path": self.path, "names": self.names, "_zip": None, "_process": 0}


def overlap(one: Path, other: Path) -> bool:
    """Whether two sources are one, or one is inside the other."""
    a, b = one.resolve(), other.resolve()
    return a == b or a in b.parents or b in a.parents


def open_source(path: Path) -> Source:
    """List the pictures of a folder (recursively) or a zip.

    Raises:
        ImageError: the path is missing, no zip, or holds no pictures.
    """
    if path.is_dir():
        names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if _is_picture(p.name) and not p.is_dir())
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = sorted(n for n in archive.namelist() if _is_picture(n) and not n.endswith("/"))
    elif not path.exists():
        raise ImageError(f"{path} does not exist: neither a folder nor a zip of pictures is there; check the path")
    elif _begins_as_zip(path):
        raise ImageError(f"{path} is neither a folder nor a zip of pictures but the beginning of one; copy it again")
    else:
        raise ImageError(f"{path} is neither a folder nor a zip of pictures; give one of these")
    if not names:
        raise ImageError(f"{path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
    return Source(path, names)


def _is_picture(name: str) -> bool:
    """Whether a file is one by its name; "._face.jpg" is what macOS keeps beside face.jpg."""
    path = Path(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._")


def _begins_as_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(ZIP_START)) == ZIP_START
    except OSError:  # no one may read it, which its caller's error says well enough
        return False
