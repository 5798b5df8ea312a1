"""Other codebooks for the same encoder and decoder: moved to a deployment's pictures, or stored in fewer bytes.

Either makes another model with another digest, so it is written as a new bundle; packets of the old one need it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError
from ..evaluation.recognizer import Recognizer
from ..export.existing import bundle_around
from ..export.storage import quantize_books
from ..runtime.bundle import CODEBOOKS, Bundle
from ..runtime.codec import Codec
from ..runtime.folders import replacing
from ..runtime.manifest import TABLES
from ..runtime.safetensors import load_file
from .gate import Limits, compare, refusals
from .jury import Jury
from .lloyd import quantisation_error, refit_books
from .pictures import Pictures, open_pictures
from .rebook_result import Rebooked
from .rebooked import write_rebooked
from .targets import how_to_add
from .writing import plain_errors

Progress = Callable[[str], None]
Floats = NDArray[np.float32]
LEAST_GAIN = 0.01  # of the quantisation error: less is not worth another model


class _Refused(Exception):
    """Leaves the folder in which a bundle was made; nothing takes its place."""


def refit(
    path: Path,
    images: Path,
    out: Path,
    *,
    recognizer: Path | None = None,
    limits: Limits | None = None,
    progress: Progress = lambda step: None,
    **pictures: Any,
) -> Rebooked:
    """Move the codewords to a deployment's pictures (Lloyd steps, encoder and decoder fixed).

    Args:
        path: the bundle.
        images: folder or zip of the deployment's faces.
        out: the new bundle.
        recognizer: ONNX face recogniser; None = identity is not measured.
        limits: PSNR, IDS and verification may not fall by more.
        progress: called with each step's name.
        pictures: held_out, crop, limit, held_out_limit, seed as for `calibrate`.

    Raises:
        CalibrationError: the bundle or the pictures cannot be used.
        BundleError: the bundle is damaged.
        ImageError: no pictures.
    """
    limits = dataclasses.replace(limits or Limits(), token_agreement=0.0, group_agreement=0.0)  # they are to change

    def moved(codec: Codec, material: Pictures) -> Floats:
        progress(f"encoding {len(material.names)} pictures")
        latents = np.concatenate([codec.run("encoder", {"image": batch})["latents"] for batch in material.batches()])
        books = refit_books(
            latents,
            codec.bundle.codebooks,
            codec.bundle.manifest.codec.switching,
            shared=is_shared(codec.bundle.codebooks),
            progress=lambda step, error: progress(f"step {step}: error {error:.4f}"),
        )
        stored = load_file(codec.bundle.file(CODEBOOKS))["codebooks"].dtype
        return books if stored == np.float32 else round_books(books, "int8" if stored == np.int8 else "fp16")

    facts = {"refit": images.name}
    return _rebook(path, images, out, moved, facts, recognizer, limits, progress, pictures, must_gain=True)


def store(
    path: Path,
    images: Path,
    out: Path,
    precision: str,
    *,
    recognizer: Path | None = None,
    limits: Limits | None = None,
    progress: Progress = lambda step: None,
    **pictures: Any,
) -> Rebooked:
    """Round the codebooks to what "fp16" or "int8" (one scale a book) holds; arguments and errors as of `refit`."""

    def rounded(codec: Codec, material: Pictures) -> Floats:
        return round_books(codec.bundle.codebooks, precision)

    facts = {"codebooks": precision}
    return _rebook(path, images, out, rounded, facts, recognizer, limits or Limits(), progress, pictures)


def how_to_make(bundle: Bundle, names: Sequence[str]) -> str:
    """What gives a rebooked bundle the variants and tables that it was written without, as far as it can be had."""
    ways = []
    if TABLES in names:
        ways.append(f"stcq calibrate {bundle.source} --entropy-tables makes tables")
    quantised = dict.fromkeys(n.partition("-")[0] for n in names if n.endswith("int8") and not n.startswith("openvino"))
    if quantised:
        targets = " ".join(f"--target {target}" for target in quantised)
        ways.append(f"stcq calibrate {bundle.source} {targets} makes int8")
    if any(name.startswith("openvino") for name in names):
        ways.append(f"openvino: {how_to_add(bundle, 'openvino')}")
    return "; ".join(ways)


def round_books(books: Floats, precision: str) -> Floats:
    """Books (V, T, K, d) with the values that "fp16" or "int8" hold.

    Raises:
        CalibrationError: a value does not fit fp16.
    """
    if precision == "int8":
        codes, scale = quantize_books(np.asarray(books))
        result: Floats = codes.astype(np.float32) * scale[:, :, None, None]
        return result
    with np.errstate(over="ignore"):
        half = books.astype(np.float16).astype(np.float32)
    if not np.isfinite(half).all():
        raise CalibrationError(f"the codebooks hold {np.abs(books).max():.3g}, more than fp16 can; use fp32")
    return half


def is_shared(books: Floats) -> bool:
    """Whether all tokens of books (V, T, K, d), as a bundle gives them, are one book in memory."""
    return books.shape[1] > 1 and books.strides[1] == 0


def _rebook(
    path: Path,
    images: Path,
    out: Path,
    change: Callable[[Codec, Pictures], Floats],
    facts: dict[str, Any],
    recognizer: Path | None,
    limits: Limits,
    progress: Progress,
    pictures: dict[str, Any],
    must_gain: bool = False,
) -> Rebooked:
    """Write, judge and keep a bundle with changed books."""
    _check_out(path, out)
    with _open(path) as codec:
        bundle = codec.bundle
        material = open_pictures(images, bundle.manifest.codec.image_size, **pictures)
        books = change(codec, material)
        eyes = Recognizer.load(recognizer) if recognizer else None
        shared = is_shared(bundle.codebooks)
        progress("writing the new bundle")
        with suppress(_Refused), plain_errors(out, "nothing was left there"), replacing(out) as folder:
            dropped = write_rebooked(bundle, books[:, :1] if shared else books, folder, facts)
            progress(f"judging on {len(material.held_out.images)} held-out faces")
            before = Jury(codec, material.held_out, eyes).before
            with Codec(Bundle(folder), codec.variant.name, policy="nn") as new:
                scores = compare(before, Jury(new, material.held_out, eyes, before.sets).before)
                switching = bundle.manifest.codec.switching
                errors = [quantisation_error(before.latents, c.bundle.codebooks, switching) for c in (codec, new)]
                sizes = [c.bundle.manifest.files[CODEBOOKS].size for c in (codec, new)]
                digests = [c.info.digest for c in (codec, new)]
            refused = refusals(scores, limits)
            if must_gain and not errors[1] <= (1 - LEAST_GAIN) * errors[0]:
                refused.append(f"the quantisation error of held-out faces does not fall by {LEAST_GAIN:.0%}")
            if digests[0] == digests[1]:
                refused.append("the codebooks are stored so already")
            if refused:
                raise _Refused
        again = "" if refused else how_to_make(Bundle(out), dropped)
    return Rebooked(
        out, digests[1], digests[0], errors[1], errors[0], scores, sizes[1], sizes[0], dropped, tuple(refused), again
    )


def _check_out(path: Path, out: Path) -> None:
    """Refuse a place for the new bundle that is taken, or inside the old one or another.

    Raises:
        CalibrationError: see above.
    """
    if out.resolve() == path.resolve() or (out.exists() and any(out.iterdir() if out.is_dir() else [out])):
        raise CalibrationError(f"{out} exists; other codebooks are another model: give another -o")
    if around := bundle_around(out):
        raise CalibrationError(f"{out} lies inside the bundle {around}; give an -o outside of it")


@contextmanager
def _open(path: Path) -> Iterator[Codec]:
    """The bundle's onnx-fp32 variant, whose graphs can be given other books.

    Raises:
        CalibrationError: it has none.
    """
    bundle = Bundle(path)
    bundle.verify_files()
    for variant in bundle.manifest.variants:
        if variant.details.get("target") == "onnx" and variant.precision == "fp32":
            with Codec(bundle, variant.name, policy="nn") as codec:
                yield codec
            return
    bundle.close()
    raise CalibrationError(f"{path} has no onnx-fp32 variant; {how_to_add(bundle, 'onnx')}")
