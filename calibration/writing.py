"""Writing what passed into the bundle: a whole new one beside it, checked, that takes its place in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from ..errors import BundleError, CalibrationError
from ..runtime.bundle import Bundle
from ..runtime.choose import measure
from ..runtime.codec import Codec
from ..runtime.folders import link_or_copy, replacing
from ..runtime.listing import list_files
from ..runtime.machine import fingerprint
from ..runtime.manifest import Manifest, Variant
from ..runtime.verify import compare
from ..runtime.verify_report import TOLERANCES, Tolerance
from .candidate import Candidate
from .targets import Target

MARGIN = 2.0  # another CPU may round otherwise: `stcq verify` allows twice what was measured here
ANY = Tolerance(np.inf, np.inf, 255)


def check_writable(path: Path) -> None:
    """Find out before minutes of work whether a bundle can be replaced.

    Raises:
        CalibrationError: it is a zip, or it or the folder around it is read-only.
        BundleError: there is no bundle.
    """
    if path.is_file():
        raise CalibrationError(f"{path} is a file; unpack the zip and give the folder")
    if not (path / "manifest.json").is_file():
        raise BundleError(f"{path} is no bundle (manifest.json is missing); give the folder that stcq-export wrote")
    for folder in (path, path.resolve().parent):
        if not os.access(folder, os.W_OK):
            raise CalibrationError(
                f"{folder} is read-only; copy the bundle to a folder of yours and calibrate it there"
            )


@contextmanager
def changed(bundle: Bundle, without: frozenset[str] = frozenset()) -> Iterator[Path]:
    """A new folder with the old bundle's files, to complete and leave with a manifest; it then replaces the bundle.

    Args:
        bundle: the old one.
        without: variants whose own files are left out.

    Raises:
        CalibrationError: the disk is full or read-only, or the bundle changed meanwhile; the old one is unchanged.
    """
    kept = {file for v in bundle.manifest.variants if v.name not in without for file in v.files}
    gone = {file for v in bundle.manifest.variants if v.name in without for file in v.files} - kept
    with plain_errors(bundle.source, "it is unchanged"), replacing(bundle.source) as folder:
        if Bundle(bundle.source).manifest != bundle.manifest:
            raise CalibrationError(f"{bundle.source} was changed by someone else meanwhile; calibrate it again")
        for file in bundle.manifest.files:
            if file not in gone:
                link_or_copy(bundle.file(file), folder / file)
        yield folder
        Bundle(folder).verify_files()


@contextmanager
def plain_errors(path: Path, outcome: str) -> Iterator[None]:
    """One line where what is made beside `path` to replace it cannot be written; `outcome` says what became of it.

    Raises:
        CalibrationError: the disk is full, or the folder around `path` cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        if "No space left" in reason:
            reason = f"no space is left in {path.resolve().parent}, free some"
        raise CalibrationError(f"{path} cannot be written: {reason}; {outcome}") from error


def add_variants(bundle: Bundle, passed: Sequence[tuple[Candidate, Target]], record: dict[str, Any]) -> None:
    """Add int8 variants, replacing those of the same name.

    Raises:
        CalibrationError: see `changed`.
    """
    names = frozenset(candidate.variant for candidate, _ in passed)
    with changed(bundle, names) as folder:
        added = [_place(candidate, target, folder) for candidate, target in passed]
        others = [v for v in bundle.manifest.variants if v.name not in names]
        manifest = bundle.manifest._replace(variants=_ordered([*others, *added]), files=list_files(folder))
        write(manifest, folder)
        proven = {variant.name: _prove(folder, variant) for variant in added}
        times = measure(Bundle(folder), seconds=4.0)
        manifest = manifest._replace(
            variants=tuple(proven.get(v.name, v) for v in manifest.variants),
            provenance=manifest.provenance
            | {"calibration": record, "measured": {"machine": fingerprint(), "encode_ms": times}},
        )
        write(manifest, folder)


def write(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json of a bundle in the making."""
    (folder / "manifest.json").write_text(manifest.to_json(), encoding="utf-8")


def _place(candidate: Candidate, target: Target, folder: Path) -> Variant:
    """Copy a candidate's files into the bundle; the variant's other graphs are its sibling's."""
    sibling = target.sibling
    own = Path("tensorrt", "int8") if target.name == "tensorrt" else Path(candidate.variant)
    (folder / own).mkdir(parents=True)
    extra = target.finish(folder / own)
    added = [(own / path.name).as_posix() for path in (folder / own).iterdir()]
    for path in candidate.files:
        shutil.copyfile(path, folder / own / path.name)
    graphs = {name: files for name, files in sibling.graphs.items() if name not in ("encoder", "tokenizer")}
    graphs = {"encoder": tuple((own / path.name).as_posix() for path in candidate.files)} | graphs
    built = dict(sibling.details["built"]) | {"precision": "int8"}
    others = [*added, *(f for f in sibling.details.get("files", []) if graphs)]
    calibration = candidate.to_dict() | target.about
    details: dict[str, Any] = {"target": target.name, "built": built, "files": others, "calibration": calibration}
    return Variant(candidate.variant, sibling.backend, "int8", graphs, details | extra)


def _prove(folder: Path, variant: Variant) -> Variant:
    """The golden self-test of an int8 variant, and what other machines may differ by, from what this one does."""
    if variant.backend == "tensorrt":
        return variant
    with Codec(Bundle(folder), variant.name, policy="nn") as codec:
        golden = codec.bundle.golden()
        report = compare(codec, golden, (golden["group"], golden["indices"]), ANY)
    tolerance = {
        "latents": round(max(MARGIN * report.latent_difference, TOLERANCES["fp16"].latents), 4),
        "gap": round(max(MARGIN * report.largest_gap, TOLERANCES["fp16"].gap), 4),
        "levels": TOLERANCES["fp16"].levels,
    }
    figures = report.to_dict() | {"flips": []}
    return variant._replace(details=variant.details | {"parity": {"golden": figures}, "tolerance": tolerance})


def _ordered(variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """Variants of one target together, int8 last."""
    targets = list(dict.fromkeys(str(v.details.get("target")) for v in variants))
    return tuple(sorted(variants, key=lambda v: (targets.index(str(v.details.get("target"))), v.precision == "int8")))
