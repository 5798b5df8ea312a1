"""One int8 encoder after another: built, judged, raced against its float siblings."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..runtime.codec import Codec
from ..runtime.graphs import faces_at_once
from .candidate import Candidate
from .gate import Limits, golden_refusal, refusals
from .jury import Encode, Jury
from .pictures import Pictures
from .race import race
from .scratch import no_room
from .search import Effect
from .targets import Target

Progress = Callable[[str], None]


@dataclass
class Work:
    """Everything that the targets of one calibration share."""

    jury: Jury
    golden: Jury
    pictures: Pictures
    limits: Limits
    budget: float
    threads: int
    progress: Progress
    keep_float: Sequence[str]
    candidates: list[Candidate] = field(default_factory=list)
    ranking: dict[str, tuple[Effect, ...]] = field(default_factory=dict)

    def kept_float(self, target: Target) -> tuple[str, ...]:
        """The layers of a target that stay float in any case."""
        return tuple(layer for layer in target.layers if any(name in layer for name in self.keep_float))


class Trials:
    """Candidates of a search."""

    def __init__(self, target: Target, work: Work, scratch: Path) -> None:
        self.target, self.work, self.scratch = target, work, scratch

    def sibling(self) -> Encode:
        """The float encoder."""
        return lambda images: self.work.jury.codec.run("encoder", {"image": images})["latents"]

    def alone(self, layer: str) -> Encode:
        """The encoder with one int8 layer."""
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        others = [name for name in self.target.layers if name != layer]
        return encode_with(self.target, _build(self.target, folder, others), self.work.threads)

    def mixed(self, floating: Collection[str]) -> tuple[bool, Candidate]:
        """The candidate with some layers in float."""
        candidate = judge(self.target, self.work, self.scratch, tuple(floating))
        return not candidate.refused, candidate


def judge(target: Target, work: Work, scratch: Path, floating: tuple[str, ...]) -> Candidate:
    """Build a candidate and score it, its time aside."""
    work.progress(f"{target.variant}: judging" + (f" with {len(floating)} layers in float" if floating else ""))
    folder = Path(tempfile.mkdtemp(dir=scratch))
    files = _build(target, folder, floating)
    encode = encode_with(target, files, work.threads)
    scores, golden = work.jury.score(encode), work.golden.score(encode)
    refused = refusals(scores, work.limits) + golden_refusal(scores, golden)
    candidate = Candidate(target.name, target.variant, floating, tuple(files), scores, golden, refused=tuple(refused))
    work.candidates.append(candidate)
    return candidate


def _build(target: Target, folder: Path, floating: Collection[str]) -> list[Path]:
    """`Target.build` into a folder of the scratch, and one line where that is full."""
    try:
        return target.build(folder, floating)
    except OSError as error:
        raise no_room(folder.parent.parent, error) from error


def time_candidate(target: Target, work: Work, candidate: Candidate) -> Candidate | None:
    """Race a good candidate against its fastest float sibling; None = it lost."""
    if not target.timed:
        done = candidate.timed(None, ())
    else:
        work.progress(f"{target.variant}: timing")
        bundle = work.jury.codec.bundle
        feeds = {"image": work.golden.faces.images[:1]}
        speeds = []
        with target.open(candidate.files, work.threads) as session:
            for sibling in target.siblings:
                with Codec(bundle, sibling.name, threads=work.threads) as codec:
                    fused = codec.selection.fused
                    floating = [codec.session("tokenizer" if fused else "encoder")]
                    quantised = [session, codec.session("quantizer")] if fused else [session]
                    speeds.append(race(sibling.name, floating, quantised, feeds, work.threads))
        speed = min(speeds, key=lambda speed: speed.ratio)
        done = candidate.timed(speed, tuple(refusals(candidate.scores, work.limits, speed)))
    work.candidates[work.candidates.index(candidate)] = done
    return None if done.refused else done


def encode_with(target: Target, files: Sequence[Path], threads: int) -> Encode:
    """A written encoder as a function of pictures (B, S, S, 3) uint8, run some rows at a time."""
    session = target.open(files, threads)

    def encode(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        step = faces_at_once(images.shape[1])
        rows = [session.run_rows({"image": images[i : i + step]})["latents"] for i in range(0, len(images), step)]
        latents: NDArray[np.float32] = np.concatenate(rows)
        return latents

    return encode
