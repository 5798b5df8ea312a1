"""`stcq-export`: checkpoint in, bundle out, or a non-zero exit and the old bundle untouched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from ..errors import ExportError, ImageError
from ..models import checkpoint
from ..runtime.folders import replacing
from ..runtime.images import open_image, prepare
from ..runtime.sources import open_source
from .draft import Draft, Progress
from .existing import check_place
from .report import Exported
from .request import Request
from .rounding import BookType, WeightType, rounded, rounding_loss
from .targets import load_target


def export(
    source: Path,
    out: Path,
    *,
    requests: Sequence[Request] = (Request("onnx"),),
    name: str | None = None,
    policy: str | None = None,
    weights: WeightType = "fp32",
    codebooks: BookType = "fp32",
    images: NDArray[np.uint8] | None = None,
    replace: bool = False,
    progress: Progress = lambda step: None,
) -> Exported:
    """Write variants into a bundle and prove that their graphs compute what torch computes.

    The new bundle is made beside `out` and takes its place in one step, when every check has passed. Variants that are
    there already stay when they belong to the same model; those of the same name are replaced. Entropy tables stay too.

    Args:
        source: the checkpoint folder.
        out: the bundle folder.
        requests: the variants to write.
        name: the model's name in the manifest; None = the old bundle's, or the name of `out`.
        policy: how a device chooses groups unless told otherwise; None = the old bundle's, or "nn".
        weights, codebooks: round these first (see `stcq.export.rounding`); the loss is measured and limited.
        images: more pictures to check parity on, uint8 (N, S, S, 3).
        replace: whether a bundle of another model may go.
        progress: called with each step's name.

    Raises:
        CheckpointError: the checkpoint is unusable.
        BackendMissing: a target needs a library that is not installed.
        ExportError: `out` holds another model or no bundle, or lies in one, a graph cannot be written, or the disk is
            full.
        ParityError: a graph disagrees with torch; the message names the tensor.
        AuditError: what was built is not what was requested.
    """
    targets = {request.target: load_target(request.target) for request in requests}
    original = checkpoint.load(source)
    _, provenance = checkpoint.read_config(source)
    check_place(out)
    model = rounded(original, weights, codebooks)
    draft = Draft(model, requests, targets, images, progress)
    if model is not original:
        progress("rounding")
        draft.rounding = rounding_loss(original, model, draft.all_images())
    provenance = provenance | {"torch": torch.__version__, "weights": weights, "codebooks": codebooks}
    try:
        with replacing(out) as folder:
            result = draft.write(folder, out, name, policy, provenance, replace)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ExportError(f"{out} cannot be written: {reason}; what was there is untouched") from error
    return result


def load_pictures(source: Path, pictures: Path, limit: int) -> NDArray[np.uint8]:
    """Up to `limit` evenly spaced pictures of a folder or zip, prepared for a checkpoint's codec: (N, S, S, 3) uint8.

    Raises:
        ImageError: no pictures there, or one cannot be read.
    """
    size = checkpoint.read_config(source)[0].image_size
    listed = open_source(pictures)
    names = [listed.names[i] for i in np.unique(np.linspace(0, len(listed.names) - 1, limit).astype(int))]
    found = []
    for name in names:
        try:
            found.append(prepare(open_image(listed.read(name)), size))
        except ImageError as error:
            raise ImageError(f"{pictures}/{name}: {error}") from error
    return np.stack(found)
