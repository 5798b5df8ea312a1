"""What stands where a bundle is to be written: nothing, a bundle of this model or of another, or something else."""

from __future__ import annotations

from pathlib import Path

from ..errors import BundleError, ExportError
from ..runtime.codec_section import CodecSection
from ..runtime.manifest import MAX_MANIFEST, Manifest, Variant


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a bundle's folder, whole or not otherwise; None = there is none that can be read."""
    path = folder / "manifest.json"
    try:
        if not path.is_file() or path.stat().st_size > MAX_MANIFEST:
            return None
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, BundleError):
        return None


def check_place(out: Path) -> None:
    """Refuse a place that holds something else, or lies inside a bundle, which would then be damaged.

    Raises:
        ExportError: see above.
    """
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is no bundle; give another -o or remove it")
    if around := bundle_around(out):
        raise ExportError(f"{out} lies inside the bundle {around}; give an -o outside of it")


def bundle_around(path: Path) -> Path | None:
    """The folder of the bundle that a path lies in, if any: one more file there, and it is no bundle any longer."""
    return next((folder for folder in path.resolve().parents if read_manifest(folder) is not None), None)


def check_model(out: Path, section: CodecSection) -> None:
    """Refuse a bundle of another model: its packets could never be decoded once it is gone.

    Raises:
        ExportError: the codec sections differ.
    """
    old = read_manifest(out)
    if old is not None and old.codec != section:
        was, comes = old.codec.digest.hex()[:8], section.digest.hex()[:8]
        raise ExportError(
            f"{out} holds the model {was}, this is {comes}, which cannot decode its packets; "
            "give another -o, repeat the same --weights and --codebooks, or --replace"
        )


def staying(old: Manifest, new_names: set[str]) -> list[Variant]:
    """The old variants that stay: not written anew, and reading no file of those (an int8 variant of its sibling)."""
    renewed = {file for variant in old.variants if variant.name in new_names for file in variant.files}
    return [v for v in old.variants if v.name not in new_names and not renewed & set(v.files)]
