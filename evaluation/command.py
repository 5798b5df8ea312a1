"""What `stcq evaluate` does: open, measure, save."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import StcqError
from ..runtime.codec import Codec
from .evaluate import Evaluation, evaluate
from .faces import load_faces
from .recognizer import Recognizer
from .report import save, table

__all__ = ["run", "table"]


def run(
    source: Path,
    images: Path,
    recognizer: Path,
    crop: float,
    limit: int | None,
    pairs: Path | None,
    peers: list[str],
    policy: str | None,
    variant: str,
    out: Path | None,
    show: Callable[[Evaluation], None] = lambda result: None,
) -> Evaluation:
    """Evaluate a bundle, or a checkpoint by way of a temporary bundle.

    Args:
        out: a folder to write to, which is looked at before the work.
        show: called with the figures before they are written.

    Raises:
        StcqError: any part of the input is unusable.
    """
    if out is not None:
        _check_out(out)
    with tempfile.TemporaryDirectory(prefix="stcq-evaluate-") as scratch:
        bundle = source
        if (source / "config.json").is_file():
            bundle = Path(scratch) / source.resolve().name
            importlib.import_module("..export.export", __package__).export(source, bundle)
        with Codec.load(bundle, variant=variant, policy=policy) as codec:
            faces = load_faces(images, codec.info.image_size, crop, limit, pairs, verify=limit is None)
            loaded = Recognizer.load(recognizer)
            result, decoded = evaluate(codec, faces, loaded, peers=peers, progress=_say)
    show(result)
    if out is not None:
        try:
            for path in save(result, faces.images, decoded, out):
                _say(f"wrote {path}")
        except OSError as error:
            raise StcqError(f"{out} cannot be written: {error.strerror or error}") from error
    return result


def _check_out(out: Path) -> None:
    """Raise StcqError where no folder can be written, now rather than behind minutes of work."""
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "not writable" if there.is_dir() else "no folder"
        raise StcqError(f"{out} cannot be written: {there} is {reason}; give another -o")


def _say(step: str) -> None:
    """Progress on standard error."""
    print(f"  {step}", file=sys.stderr, flush=True)
