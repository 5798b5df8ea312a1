"""Opening bundles: a directory or a .zip of one, every byte accounted for before it is used."""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .backends import is_installed
from .listing import check_listing, sha256_of
from .manifest import MAX_MANIFEST, Manifest, Variant
from .safetensors import load_file

CODEBOOKS = "codebooks.safetensors"
GOLDEN = "golden/golden.safetensors"
EMBEDDED = Path(__file__).parent.parent / "bundles" / "face-65"


class Bundle:
    """An open bundle.

    Opening checks the manifest, that exactly the listed files are there with their sizes, and that none is a
    link; a file's SHA-256 is checked when the file is first used, or for all of them by `verify_files`.

    Attributes:
        path: the folder (of a zip: a temporary copy).
        manifest: the parsed manifest.
    """

    def __init__(self, path: Path) -> None:
        """Open a bundle.

        Raises:
            BundleError: missing, damaged, incomplete or unsafe.
        """
        self._remove: Callable[[], object] | None = None
        self._checked: set[str] = set()
        self.source = path
        try:
            self.path = self._unzipped(path) if path.is_file() else path
            self.manifest = Manifest.from_json(self._manifest_text())
            check_listing(self.path, self.manifest.files)
        except OSError as error:
            self.close()
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error
        except BundleError as error:
            self.close()
            raise BundleError(f"{path}: {error}") from error

    def close(self) -> None:
        """Remove the temporary copy of a zip."""
        if self._remove is not None:
            self._remove()

    def file(self, name: str) -> Path:
        """The path of a listed file whose content is what the manifest says.

        Raises:
            BundleError: not listed, unreadable, or its SHA-256 differs.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.source}: the bundle has no {name}; export it again with this stcq")
        path = self.path / name
        if name not in self._checked:
            try:
                digest = sha256_of(path)
            except OSError as error:
                raise BundleError(f"{self.source}: {name} cannot be read: {error.strerror}; open it again") from error
            if digest != entry.sha256:
                what = "is damaged (its SHA-256 differs) or was replaced since"
                raise BundleError(f"{self.source}: {name} {what}; copy the bundle or open it again")
            self._checked.add(name)
        return path

    def graph(self, variant: Variant, name: str) -> Path:
        """The path of a variant's graph, after checking it and the weights it reads.

        Raises:
            BundleError: the variant has no such graph, or a file is damaged.
        """
        if name not in variant.graphs:
            raise BundleError(f"{self.source}: {variant.name} has no {name} graph; export it again with this stcq")
        paths = [self.file(file) for file in variant.graphs[name]]
        return paths[0]

    def verify_files(self) -> None:
        """Check the SHA-256 of every file.

        Raises:
            BundleError: one differs.
        """
        for name in self.manifest.files:
            self.file(name)

    def variant(self, name: str) -> Variant:
        """The variant of a name; "auto" is the first one whose backend's library is installed.

        Raises:
            BundleError: there is none of this name.
        """
        variants = self.manifest.variants
        for variant in variants:
            if name == variant.name or (name == "auto" and is_installed(variant.backend)):
                return variant
        if name == "auto" and variants:
            return variants[0]  # opening its backend says what to install
        names = ", ".join(v.name for v in self.manifest.variants) or "none"
        raise BundleError(f"{self.source} has no variant {name!r}; it has: {names}")

    @property
    def stored_codebooks(self) -> NDArray[Any]:
        """The codebooks as they lie in the file: (V, T or 1, K, d), float32, float16 or int8; memory-mapped."""
        books = load_file(self.file(CODEBOOKS)).get("codebooks")
        if books is None or books.ndim != 4:
            raise BundleError(f"{self.source}: {CODEBOOKS} does not fit the manifest; export the bundle again")
        return books

    @cached_property
    def codebooks(self) -> NDArray[np.float32]:
        """The codebooks (V, T, K, d) float32, read-only: memory-mapped, or converted where stored in fewer bytes.

        V is M, or with several switches the number of sets that groups choose from (runtime/switching.py).
        """
        codec = self.manifest.codec
        tensors = load_file(self.file(CODEBOOKS))
        books, scale = tensors.get("codebooks"), tensors.get("scale")
        shape = (codec.switching.sets, codec.tokens, codec.codes, codec.dim)
        shared = (codec.switching.sets, 1, codec.codes, codec.dim)  # all tokens have the same book
        scales = scale is None or (books is not None and scale.shape == books.shape[:2] and scale.dtype == np.float32)
        if (
            books is None
            or books.shape not in (shape, shared)
            or not scales
            or (books.dtype == np.int8) != (scale is not None)
        ):
            raise BundleError(f"{self.source}: {CODEBOOKS} does not fit the manifest; export the bundle again")
        if books.dtype != np.float32:
            books = books.astype(np.float32)
        if scale is not None:
            books = books * scale[:, :, None, None]
        result: NDArray[np.float32] = np.broadcast_to(books, shape)
        return result

    def golden(self) -> dict[str, NDArray[Any]]:
        """The golden set: images, latents, group, indices, packets, outputs, and perhaps more.

        Raises:
            BundleError: not there, damaged, or of other shapes than the manifest's codec has.
        """
        found, codec = load_file(self.file(GOLDEN)), self.manifest.codec
        count, picture = len(found.get("images", ())), (codec.image_size, codec.image_size, 3)
        shapes = {"images": picture, "latents": (codec.tokens, codec.dim), "group": (), "indices": (codec.tokens,)}
        shapes |= {"packets": (codec.packets.packet_bytes,), "outputs": picture}
        if not count or any(name not in found or found[name].shape != (count, *s) for name, s in shapes.items()):
            raise BundleError(f"{self.source}: {GOLDEN} does not fit the manifest; export the bundle again")
        return found

    def size_of(self, variant: Variant) -> int:
        """Bytes of a variant's graphs with their weights."""
        return sum(self.manifest.files[file].size for file in {f for files in variant.graphs.values() for f in files})

    def _unzipped(self, path: Path) -> Path:
        """A temporary copy of a zip's files; the module for it is slow to import and seldom needed."""
        zipped = importlib.import_module(".zipped", __package__)
        folder: Path = zipped.extract(path)
        self._remove = weakref.finalize(self, zipped.remove, folder)  # also when nobody calls close
        return folder

    def _manifest_text(self) -> str:
        path = self.path / "manifest.json"
        if not path.is_file() or path.is_symlink():
            raise BundleError("no bundle here (manifest.json is missing); give the folder that stcq-export wrote")
        if path.stat().st_size > MAX_MANIFEST:
            raise BundleError("manifest.json is too large to be one; do not use this bundle")
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise BundleError("manifest is damaged (not UTF-8); copy the bundle again") from None
