"""manifest.json: what a bundle is. Parsed strictly, so that the rest of the runtime can trust it."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ..errors import BundleError
from .codec_section import CodecSection
from .packet import VERSION as PACKET_VERSION
from .safetensors import unique_keys

FORMAT = 1
MAX_MANIFEST = 1 << 22
GRAPHS = ("encoder", "quantizer", "router", "tokenizer", "decoder")
TABLES = "entropy.safetensors"  # the file of a bundle that has entropy tables
POLICIES = ("nn", "router")


class Variant(NamedTuple):
    """One target at one precision.

    Attributes:
        name: such as "onnx-fp32".
        backend: what runs it.
        precision: as read back from the built graphs.
        graphs: graph name -> its file in the bundle, then the files with weights that it reads.
        details: the rest: opset, IR version, batch, parity figures.
    """

    name: str
    backend: str
    precision: str
    graphs: dict[str, tuple[str, ...]]
    details: dict[str, Any]

    @property
    def files(self) -> list[str]:
        """Every file of the variant, graphs with their weights and what else its details list, each once."""
        listed = [file for files in self.graphs.values() for file in files]
        return sorted({*listed, *self.details.get("files", [])})

    def to_dict(self) -> dict[str, Any]:
        """The JSON object."""
        known = {"name": self.name, "backend": self.backend, "precision": self.precision, "graphs": self.graphs}
        return known | self.details

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Variant:
        """Parse the JSON object; KeyError, TypeError or ValueError when it is not one."""
        rest = dict(data)
        name, backend, precision = (str(rest.pop(key)) for key in ("name", "backend", "precision"))
        graphs = {str(k): tuple(map(str, files)) for k, files in dict(rest.pop("graphs")).items()}
        for key in ("calibration", "tolerance"):
            _object(rest.get(key, {}))
        return cls(name, backend, precision, graphs, rest)


class FileEntry(NamedTuple):
    """Size in bytes and SHA-256 (hex) of one file."""

    size: int
    sha256: str


class Manifest(NamedTuple):
    """A whole manifest; `files` has every file of the bundle but manifest.json itself."""

    name: str
    codec: CodecSection
    variants: tuple[Variant, ...]
    files: dict[str, FileEntry]
    policy: str
    preprocess: dict[str, Any]
    provenance: dict[str, Any]

    def to_json(self) -> str:
        """The text of manifest.json."""
        document = {
            "format": FORMAT,
            "name": self.name,
            "codec": self.codec.to_dict(),
            "digest": self.codec.digest.hex(),
            "policy": self.policy,
            "preprocess": self.preprocess,
            "variants": [variant.to_dict() for variant in self.variants],
            "files": {path: {"size": e.size, "sha256": e.sha256} for path, e in sorted(self.files.items())},
            "provenance": self.provenance,
        }
        return json.dumps(document, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Parse and check a manifest.

        Raises:
            BundleError: damaged, from a newer stcq, unsafe paths, or a digest that does not fit its codec section.
        """
        try:
            data = json.loads(text, object_pairs_hook=unique_keys)
            if data["format"] != FORMAT:
                raise BundleError(f"manifest has format {data['format']!r}, this stcq reads {FORMAT}: upgrade stcq")
            codec = CodecSection.from_dict(data["codec"])
            variants = tuple(Variant.from_dict(v) for v in data["variants"])
            files = {str(p): FileEntry(int(e["size"]), str(e["sha256"])) for p, e in data["files"].items()}
            preprocess, provenance = (_object(data[key]) for key in ("preprocess", "provenance"))
            manifest = cls(str(data["name"]), codec, variants, files, str(data["policy"]), preprocess, provenance)
            digest = data["digest"]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise BundleError(
                f"manifest is damaged ({type(error).__name__}: {error}); copy the bundle again"
            ) from error
        manifest._check(digest)
        return manifest

    def _check(self, digest: str) -> None:
        """Refuse what parses but cannot be meant."""
        if digest != self.codec.digest.hex():
            raise BundleError("manifest digest does not fit its codec section; copy the bundle again")
        if self.codec.packet_version != PACKET_VERSION:
            raise BundleError(
                f"bundle writes packets of version {self.codec.packet_version}, this stcq knows {PACKET_VERSION}: "
                "upgrade stcq"
            )
        if self.policy not in POLICIES:
            raise BundleError(f"manifest policy {self.policy!r} is unknown; this stcq knows {', '.join(POLICIES)}")
        for path in self.files:
            check_path(path)
        for variant in self.variants:
            missing = [p for files in variant.graphs.values() for p in files if p not in self.files]
            if missing or not variant.graphs or not all(variant.graphs.values()):
                raise BundleError(f"variant {variant.name} names files {missing} that the manifest does not list")


def _object(value: Any) -> dict[str, Any]:
    """A JSON object; TypeError when it is something else."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r:.40} is no JSON object")
    return value


def check_path(path: str) -> None:
    """Refuse a path that is absolute, leaves the bundle, or means different things on different systems.

    Raises:
        BundleError: the path is unsafe.
    """
    parts = PurePosixPath(path).parts
    unsafe = not parts or path.startswith("/") or ".." in parts or any(c in path for c in "\\:\0")
    if unsafe or "/".join(parts) != path or path == "manifest.json":
        raise BundleError(f"manifest names the unsafe path {path!r}; do not use this bundle")
