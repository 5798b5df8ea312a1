"""`stcq-export`: checkpoint in, bundle out, or a non-zero exit and the old bundle untouched."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..errors import ExportError, ParityError
from ..models import checkpoint
from ..models.codec import CodecModel
from ..runtime.bundle import CODEBOOKS, GOLDEN, Bundle, list_files
from ..runtime.codec import Codec
from ..runtime.files import sync_folder
from ..runtime.images import PREPROCESS, open_image, prepare
from ..runtime.manifest import CodecSection, Manifest, Variant
from ..runtime.sources import open_source
from ..runtime.verify import Report, verify
from .golden import golden_images, reference
from .onnx_target import IR_VERSION, OPSET, export_onnx


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        bundle: the folder.
        size: bytes of all its files.
        digest: the model digest, hex.
        reports: parity of each variant on the golden set and, if given, on the caller's pictures.
    """

    bundle: Path
    size: int
    digest: str
    reports: dict[str, Report]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        facts = {"bundle": str(self.bundle), "size": self.size, "digest": self.digest}
        return facts | {"parity": {what: report.to_dict() for what, report in self.reports.items()}}

    def summary(self) -> str:
        """The figures as lines for people."""
        lines = [
            f"{r.variant} on {r.faces} {what}: tokens equal {r.token_agreement:.3%}, groups {r.group_agreement:.3%}, "
            f"largest gap {r.largest_gap:.1e}, image within one level {r.pixel_share:.3%}"
            for what, r in self.reports.items()
        ]
        return "\n".join([*lines, f"wrote {self.bundle} ({self.size / 1e6:.1f} MB, model {self.digest[:8]})"])


def export(
    source: Path,
    out: Path,
    *,
    name: str | None = None,
    images: NDArray[np.uint8] | None = None,
    progress: Callable[[str], None] = lambda step: None,
) -> Exported:
    """Write a bundle from a checkpoint and prove that its graphs compute what torch computes.

    The bundle is made beside `out` and takes its place only when every check passed.

    Args:
        source: the checkpoint folder.
        out: the bundle folder; an older bundle there is replaced.
        name: the model's name in the manifest; None = the name of `out`.
        images: more pictures to check parity on, uint8 (N, S, S, 3).
        progress: called with each step's name.

    Raises:
        CheckpointError: the checkpoint is unusable.
        ExportError: `out` holds something that is no bundle, or a graph cannot be written.
        ParityError: a graph disagrees with torch; the message names the tensor.
    """
    model = checkpoint.load(source)
    _, provenance = checkpoint.read_config(source)
    if out.exists() and not (out / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists and is no bundle; give another -o or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
            folder = Path(scratch) / "bundle"
            reports = _build(model, folder, name or out.name, provenance, images, progress)
            _replace_folder(folder, out, Path(scratch) / "old")
    except OSError as error:
        raise ExportError(f"{out} cannot be written: {error.strerror or error}; the old bundle is untouched") from error
    with_size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return Exported(out, with_size, section_of(model).digest.hex(), reports)


def load_pictures(source: Path, pictures: Path, limit: int) -> NDArray[np.uint8]:
    """Up to `limit` evenly spaced pictures of a folder or zip, prepared for a checkpoint's codec: (N, S, S, 3) uint8.

    Raises:
        ImageError: no pictures there, or one cannot be read.
    """
    size = checkpoint.read_config(source)[0].image_size
    listed = open_source(pictures)
    names = [listed.names[i] for i in np.unique(np.linspace(0, len(listed.names) - 1, limit).astype(int))]
    return np.stack([prepare(open_image(listed.read(name)), size) for name in names])


def section_of(model: CodecModel) -> CodecSection:
    """The manifest's codec section of a model, and with it the model digest."""
    config = model.config
    books = model.codebooks.full().detach().numpy()
    return CodecSection(
        tokens=config.tokens,
        codes=config.codes,
        groups=config.groups,
        dim=config.dim,
        image_size=config.image_size,
        backbone=config.backbone,
        codebooks_sha256=hashlib.sha256(np.ascontiguousarray(books, "<f4").tobytes()).hexdigest(),
        decoder_sha256=_hash_tensors(model.decoder.state_dict()),
    )


def _hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, shape and little-endian float32 values of tensors in the order of their names."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        if tensors[key].is_floating_point():  # not BatchNorm's step counters
            total.update(f"{key}{list(tensors[key].shape)}".encode())
            total.update(tensors[key].detach().numpy().astype("<f4").tobytes())
    return total.hexdigest()


def _build(
    model: CodecModel,
    folder: Path,
    name: str,
    provenance: dict[str, Any],
    images: NDArray[np.uint8] | None,
    progress: Callable[[str], None],
) -> dict[str, Report]:
    """Fill `folder` with a whole, verified bundle."""
    section = section_of(model)
    (folder / "golden").mkdir(parents=True)
    progress("codebooks")
    save_file({"codebooks": _smallest(model.codebooks.full().detach().numpy())}, folder / CODEBOOKS)
    progress("golden set")
    save_file(reference(model, section, golden_images(section.image_size)), folder / GOLDEN)
    progress("onnx-fp32")
    (folder / "onnx-fp32").mkdir()
    written = export_onnx(model, folder / "onnx-fp32")
    graphs = {graph: tuple(f"onnx-fp32/{file}" for file in files) for graph, files in written.items()}
    details: dict[str, Any] = {"target": "onnx", "opset": OPSET, "ir_version": IR_VERSION, "batch": "dynamic"}
    variant = Variant("onnx-fp32", "onnxruntime", "fp32", graphs, details)
    provenance = provenance | {"torch": torch.__version__}
    manifest = Manifest(name, section, (variant,), list_files(folder), "nn", dict(PREPROCESS), provenance)
    manifest_path = folder / "manifest.json"
    manifest_path.write_text(manifest.to_json())
    progress("parity")
    reports = _prove(folder, model, section, images)
    details["parity"] = {what: report.to_dict() for what, report in reports.items()}
    manifest_path.write_text(manifest.to_json())
    _sync(folder)
    return reports


def _smallest(books: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
    """Codebooks in float16 when that changes no value, else in float32."""
    with np.errstate(over="ignore"):
        half = books.astype(np.float16)
    return np.ascontiguousarray(half if np.array_equal(half.astype(np.float32), books) else books)


def _prove(
    folder: Path, model: CodecModel, section: CodecSection, images: NDArray[np.uint8] | None
) -> dict[str, Report]:
    """Run the parity suite over a fresh bundle.

    Raises:
        ParityError: something is out of tolerance.
    """
    with Codec(Bundle(folder)) as codec:
        reports = {"golden": verify(codec)}
        if images is not None and len(images):
            reports["images"] = verify(codec, reference(model, section, images))
    for what, report in reports.items():
        if not report.passed:
            raise ParityError(f"{report.variant} disagrees with torch on {what}: {'; '.join(report.failures)}")
    return reports


def _replace_folder(new: Path, target: Path, aside: Path) -> None:
    """Put a finished folder in the target's place; the old one is moved into `aside`, which the caller deletes."""
    if target.exists():
        target.rename(aside)
    try:
        new.rename(target)
    except OSError:
        if aside.exists():
            aside.rename(target)
        raise
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Make every file of a folder readable as others are (safetensors writes 0600) and flush it to disk."""
    mode = (folder / "manifest.json").stat().st_mode
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
            with path.open("rb+") as file:
                os.fsync(file.fileno())
