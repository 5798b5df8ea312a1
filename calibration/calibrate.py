"""`stcq calibrate`: int8 variants of a bundle, each measured against its float sibling and kept only when it wins."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CalibrationError
from ..evaluation.faces import Faces
from ..evaluation.recognizer import Recognizer
from ..runtime.backends import is_installed
from ..runtime.bundle import Bundle
from ..runtime.codec import Codec
from .candidate import Candidate, table
from .gate import Limits
from .jury import Jury, golden_faces
from .pictures import open_pictures
from .search import Clock, Effect, fewest, rank_layers
from .targets import Target, load_target
from .trial import Progress, Trials, Work, judge, time_candidate
from .writing import add_variants, check_writable

RANKED_ON = 64  # pictures


@dataclass(frozen=True)
class Calibrated:
    """What a calibration found.

    Attributes:
        bundle: the folder.
        candidates: every int8 encoder that was judged, in the order of trial; those with `kept` are in the bundle now.
        ranking: target -> its layers by their effect on the latents, where a search was needed.
        record: what the manifest's provenance keeps.
    """

    bundle: Path
    candidates: tuple[Candidate, ...]
    ranking: dict[str, tuple[Effect, ...]]
    record: dict[str, Any]

    @property
    def kept(self) -> tuple[str, ...]:
        """The variants that are in the bundle now."""
        return tuple(candidate.variant for candidate in self.candidates if not candidate.refused)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return {"bundle": str(self.bundle), "kept": list(self.kept)} | self.record

    def summary(self) -> str:
        """The table and what belongs under it."""
        facts = self.record
        judged = f"judged on {facts['held_out_faces']} held-out faces"
        judged += f", {facts['pairs']} verification pairs" if facts["recognizer"] else ", identity not: no --recognizer"
        lines = [table(self.candidates), f"calibrated on {facts['faces']} faces, {judged}"]
        if self.kept:
            lines.append(f"wrote {self.bundle}: {', '.join(self.kept)}")
        return "\n".join(lines)


def calibrate(
    path: Path,
    images: Path,
    *,
    targets: Sequence[str] = ("onnx",),
    recognizer: Path | None = None,
    held_out: Path | None = None,
    crop: float = 1.0,
    limit: int = 2000,
    held_out_limit: int = 1000,
    limits: Limits | None = None,
    budget: float = 600,
    keep_float: Sequence[str] = (),
    threads: int = 1,
    seed: int = 0,
    progress: Progress = lambda step: None,
) -> Calibrated:
    """Add int8 variants to a bundle.

    The codebooks, the distances and the decoder stay as they are: only the encoder's backbone becomes int8, so every
    packet decodes to the same picture everywhere. The new bundle takes the old one's place in one step.

    Args:
        path: the bundle's folder.
        images: folder or zip of faces like those that the device will see.
        targets: "onnx", "openvino", "tensorrt".
        recognizer: ONNX face recogniser; None = identity is not judged.
        held_out: folder or zip of other people to judge on; None = a fifth of the people of `images`.
        crop: side of the face crop over the picture's shorter side.
        limit, held_out_limit: most pictures.
        limits: what a candidate may cost; None = the defaults.
        budget: seconds for the search of mixed precision for each target; 0 = no search.
        keep_float: parts of the names of layers that stay float in any case.
        threads: CPU threads of the timed encoders.
        seed: chooses who is held out.
        progress: called with each step's name.

    Raises:
        CalibrationError: the bundle or the pictures cannot be used, or nothing passed; the bundle is then unchanged.
        BackendMissing: a target's library is not installed.
        BundleError: the bundle is damaged.
        ImageError: no pictures.
    """
    check_writable(path)
    bundle = Bundle(path)
    bundle.verify_files()
    loaded = [load_target(name, bundle) for name in dict.fromkeys(targets)]
    size = bundle.manifest.codec.image_size
    progress("reading the held-out pictures")
    pictures = open_pictures(
        images, size, held_out=held_out, crop=crop, limit=limit, held_out_limit=held_out_limit, seed=seed
    )
    eyes = Recognizer.load(recognizer) if recognizer else None
    with ExitStack() as stack:
        codec = stack.enter_context(Codec(bundle, _reference(bundle, loaded).name, policy="nn"))
        progress(f"judging {codec.variant.name} on {len(pictures.held_out.images)} pictures")
        golden = Jury(codec, Faces(golden_faces(bundle.golden()), ()), None)
        jury, limits = Jury(codec, pictures.held_out, eyes), limits or Limits()
        work = Work(jury, golden, pictures, limits, budget, threads, progress, keep_float)
        for name in keep_float:
            if not any(name in layer for target in loaded for layer in target.layers):
                layers = ", ".join(layer for target in loaded for layer in target.layers)
                raise CalibrationError(f"no layer's name holds {name!r}; the layers are: {layers or 'not known here'}")
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="stcq-calibrate-")))
        passed = [winner for target in loaded if (winner := _candidate(target, work, scratch))]
        record = _record(work, images, held_out, recognizer, crop, seed)
        if passed:
            progress("writing the bundle")
            add_variants(bundle, [(c, t) for t in loaded for c in passed if c.target == t.name], record)
    return Calibrated(path, tuple(work.candidates), work.ranking, record)


def _reference(bundle: Bundle, targets: Sequence[Target]) -> Any:
    """The fp32 variant that runs here and judges all candidates: its quantizer and decoder are those of all others."""
    able = [v for v in bundle.manifest.variants if v.precision == "fp32" and is_installed(v.backend)]
    able = [v for v in able if v.backend != "tensorrt"]
    if not able:
        needs = ", ".join(sorted({target.sibling.backend for target in targets}))
        raise CalibrationError(f"no fp32 variant of {bundle.source} runs here to judge by; install one of: {needs}")
    return able[0]


def _candidate(target: Target, work: Work, scratch: Path) -> Candidate | None:
    """Judge plain int8 and, if it is not good enough, mixed precision; the one that passed."""
    work.progress(f"{target.variant}: calibrating on {len(work.pictures.names)} pictures")
    target.observe(work.pictures.batches, work.golden.faces.images)
    kept = work.kept_float(target)
    plain = judge(target, work, scratch, kept)
    if not plain.refused:
        return time_candidate(target, work, plain)
    clock = Clock(work.budget)
    layers = target.layers
    if work.budget <= 0 or len(layers) < 2:
        return None
    work.progress(f"{target.variant}: ranking {len(layers)} layers")
    batches = list(work.pictures.batches(RANKED_ON))
    trials = Trials(target, work, scratch)
    ranking = rank_layers(layers, trials.alone, trials.sibling(), batches, clock)
    work.ranking[target.variant] = tuple(ranking)
    others = [effect.layer for effect in ranking if effect.layer not in kept]
    found = fewest(others, lambda more: trials.mixed([*kept, *more]), clock)
    if found is None:
        return None
    for i, other in enumerate(work.candidates):
        if other.variant == target.variant and not other.refused and other is not found[1]:
            work.candidates[i] = other.timed(None, (f"{len(kept) + len(found[0])} layers in float are enough",))
    return time_candidate(target, work, found[1])


def _record(
    work: Work, images: Path, held_out: Path | None, recognizer: Path | None, crop: float, seed: int
) -> dict[str, Any]:
    """What the manifest keeps: pictures, limits, every candidate and why it was refused."""
    return {
        "images": images.name,
        "held_out": held_out.name if held_out else "a fifth of the people",
        "faces": len(work.pictures.names) - len(work.pictures.skipped),
        "held_out_faces": len(work.jury.faces.images),
        "pairs": len(work.jury.faces.pairs) if recognizer else 0,
        "recognizer": recognizer.name if recognizer else None,
        "crop": crop,
        "seed": seed,
        "limits": vars(work.limits),
        "candidates": [candidate.to_dict() for candidate in work.candidates],
        "ranking": {name: [vars(effect) for effect in effects] for name, effects in work.ranking.items()},
    }
