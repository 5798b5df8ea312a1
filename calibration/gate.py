"""The gate: what a candidate computes and how fast it is, against its float sibling, and whether that will do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.faces import Faces
from ..evaluation.quality import Mean, psnrs
from ..evaluation.recognizer import Recognizer
from ..evaluation.verification import Verification, verify_pairs
from ..runtime.backends.base import Session
from ..runtime.codec import Codec
from ..runtime.graphs import faces_at_once

Arrays = dict[str, NDArray[Any]]
Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
GOLDEN_LATENTS = 0.06  # RMS over RMS
PAIRS, SECONDS = 41, 20.0  # most timed pairs, and most time for them


@dataclass(frozen=True)
class Limits:
    """What a candidate may cost.

    Attributes:
        ids_drop: of the mean cosine between the embeddings of a picture and its decoded picture.
        psnr_drop: of the mean PSNR, dB.
        token_agreement, group_agreement: least fractions equal; tokens are compared where their sets of books agree.
        verification: most loss of accuracy, in standard errors of the sibling's.
        speed: least lower quartile of the ratios sibling / candidate in time.
    """

    ids_drop: float = 0.01
    psnr_drop: float = 0.1
    token_agreement: float = 0.85
    group_agreement: float = 0.7
    verification: float = 1.0
    speed: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """What a set of pictures becomes: with the sibling this is what candidates are compared with.

    `sets` (N, T) has the set of books of every token, which is the group unless there are switches. With a memory,
    where the least change sends a face another way through as good sets, it has those of the sibling's walk, and
    `indices` the nearest codewords there.
    """

    latents: NDArray[np.float32]
    sets: NDArray[np.int64]
    indices: NDArray[np.int32]
    psnr: NDArray[np.float64]
    ids: NDArray[np.float64] | None
    verification: Verification | None


@dataclass(frozen=True)
class Scores:
    """A candidate against its sibling on held-out pictures; drops are sibling minus candidate, mean +- standard error.

    Attributes:
        latents: RMS of the latents' difference over their RMS.
        token_agreement: equal indices, where the sets of books agree.
        group_agreement: equal groups; with several switches equal choices of each, with a memory 1.
        psnr, psnr_drop: dB.
        ids, ids_drop: None = no recogniser.
        verification, verification_before: accuracy of original against decoded; None = no recogniser or no pairs.
    """

    latents: float
    token_agreement: float
    group_agreement: float
    psnr: Mean
    psnr_drop: Mean
    ids: Mean | None = None
    ids_drop: Mean | None = None
    verification: Verification | None = None
    verification_before: Verification | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


@dataclass(frozen=True)
class Speed:
    """Times of one picture through two encoders in turn: medians in ms, and quartiles of the pairs' ratios."""

    sibling: str
    sibling_ms: float
    ms: float
    ratio: float
    lower: float
    upper: float
    pairs: int
    threads: int


class Jury:
    """Scores encoders on held-out pictures through the sibling's quantizer and decoder.

    Args:
        codec: the open float sibling.
        faces: held-out pictures and their verification pairs.
        recognizer: None = identity is not judged.
        walk: with a memory, the sibling's sets of books (N, T), where the codec itself is the candidate.
    """

    def __init__(
        self, codec: Codec, faces: Faces, recognizer: Recognizer | None, walk: NDArray[np.int64] | None = None
    ) -> None:
        self.codec, self.faces, self.recognizer, self.walk = codec, faces, recognizer, walk
        self._plain: NDArray[np.float64] | None = None
        self._mirrored: NDArray[np.float64] | None = None
        if recognizer is not None:
            self._plain, self._mirrored = self._embed(recognizer, faces.images)
        self.before = self.outcome(lambda images: codec.run("encoder", {"image": images})["latents"])
        self.walk = self.before.sets

    def outcome(self, encode: Encode) -> Outcome:
        """What an encoder, images (B, S, S, 3) uint8 -> latents (B, T, d), makes of the held-out pictures."""
        images = self.faces.images
        step = faces_at_once(images.shape[1])
        parts = []
        for start in range(0, len(images), step):
            rows = images[start : start + step]
            latents = encode(rows)
            tokens = self.codec.run("quantizer", {"latents": latents})
            decoded = self.codec.run("decoder", tokens)["image"]
            embedded = self._embed(self.recognizer, decoded) if self.recognizer else (np.zeros(0), np.zeros(0))
            parts.append((latents, *self._compared(latents, tokens, start), psnrs(rows, decoded), *embedded))
        latents, sets, indices, psnr, plain, mirrored = (np.concatenate(column) for column in zip(*parts, strict=True))
        ids = verification = None
        if self._plain is not None and self._mirrored is not None:
            ids = (self._plain * plain).sum(1)  # (N,)
            if self.faces.pairs:
                verification = verify_pairs(self._mirrored, mirrored, self.faces.pairs)
        return Outcome(latents, sets, indices, psnr, ids, verification)

    def _compared(self, latents: NDArray[np.float32], tokens: dict[str, NDArray[Any]], start: int) -> Sequence[Any]:
        """Sets and indices (B, T) as in an `Outcome`, of faces from number `start` on."""
        switching, books = self.codec.bundle.manifest.codec.switching, self.codec.bundle.codebooks
        sets, indices = switching.expand(tokens["group"], tokens["indices"]), tokens["indices"]
        if switching.memory:
            sets = sets if self.walk is None else self.walk[start : start + len(sets)]
            open_to = books[sets, np.arange(sets.shape[1])]  # (B, T, K, d)
            indices = np.square(latents[:, :, None] - open_to).sum(3).argmin(2)
        return sets, indices

    def score(self, encode: Encode) -> Scores:
        """A candidate's encoder against the sibling's."""
        return compare(self.before, self.outcome(encode))

    @staticmethod
    def _embed(recognizer: Recognizer, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Embeddings (N, E) of pictures, and of pictures with their mirror images added."""
        rows = [recognizer.embed_both(image) for image in images]
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def compare(before: Outcome, after: Outcome) -> Scores:
    """Two outcomes on the same pictures."""
    same = before.sets == after.sets
    equal = before.indices == after.indices
    power = max(float(np.square(before.latents).mean()), 1e-12)
    identity: dict[str, Any] = {}
    if before.ids is not None and after.ids is not None:
        identity = {"ids": Mean.of(after.ids), "ids_drop": Mean.of(before.ids - after.ids)}
        identity |= {"verification": after.verification, "verification_before": before.verification}
    return Scores(
        latents=float(np.sqrt(np.square(before.latents - after.latents).mean() / power)),
        token_agreement=float(equal[same].mean()) if same.any() else 0.0,
        group_agreement=float(same.mean()),
        psnr=Mean.of(after.psnr),
        psnr_drop=Mean.of(before.psnr - after.psnr),
        **identity,
    )


def refusals(scores: Scores, limits: Limits, speed: Speed | None = None) -> list[str]:
    """Why a candidate does not pass, one short clause each; empty = it passes. NaN never passes."""
    found = []
    least = (
        ("token agreement", scores.token_agreement, limits.token_agreement),
        ("group agreement", scores.group_agreement, limits.group_agreement),
    )
    found += [f"{what} {value:.3f} < {limit:g}" for what, value, limit in least if not value >= limit]
    if not scores.psnr_drop.value <= limits.psnr_drop:
        found.append(f"PSNR drop {scores.psnr_drop.value:.3f} > {limits.psnr_drop:g} dB")
    if scores.ids_drop is not None and not scores.ids_drop.value <= limits.ids_drop:
        found.append(f"IDS drop {scores.ids_drop.value:.4f} > {limits.ids_drop:g}")
    if scores.verification is not None and scores.verification_before is not None:
        before = scores.verification_before
        lost = before.accuracy - scores.verification.accuracy
        if not lost <= limits.verification * before.error:
            found.append(
                f"verification falls by {lost:.2%} > {limits.verification:g} standard error {before.error:.2%}"
            )
    if speed is not None and not speed.lower > limits.speed:
        found.append(f"not faster: {speed.ratio:.2f} (lower quartile {speed.lower:.2f}) times {speed.sibling}")
    return found


def race(
    name: str, sibling: Session, candidate: Session, feeds: Arrays, threads: int, seconds: float = SECONDS
) -> Speed:
    """Time two graphs in turn: each pair runs one after the other, and pairs alternate in which goes first."""
    for _ in range(3):
        sibling.run(feeds)
        candidate.run(feeds)
    times: list[tuple[float, float]] = []
    started = time.perf_counter()
    while len(times) < PAIRS and (len(times) < 3 or time.perf_counter() - started < seconds):
        if len(times) % 2:
            late = _time(candidate, feeds)
            times.append((_time(sibling, feeds), late))
        else:
            early = _time(sibling, feeds)
            times.append((early, _time(candidate, feeds)))
    ratios = [a / b for a, b in times]
    lower, middle, upper = statistics.quantiles(ratios, n=4)
    before, after = (round(statistics.median(column) * 1000, 3) for column in zip(*times, strict=True))
    return Speed(name, before, after, round(middle, 3), round(lower, 3), round(upper, 3), len(times), threads)


def _time(session: Session, feeds: Arrays) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    session.run(feeds)
    return time.perf_counter() - start


def golden_refusal(scores: Scores, golden: Scores) -> list[str]:
    """Why a candidate that passes on the held-out pictures fails on the bundle's own photographs, if it does.

    Pictures that are no faces give ranges that no face fits, and held-out ones of the same kind would not notice.
    """
    limit = max(GOLDEN_LATENTS, 2 * scores.latents)
    if golden.latents <= limit:
        return []
    return [f"latents of the golden faces move by {golden.latents:.3f} > {limit:.3f}: calibrated on other pictures"]


def golden_faces(golden: Arrays) -> NDArray[np.uint8]:
    """The photographs of a bundle's golden set, (N, S, S, 3); the last two of it are a gradient and noise."""
    return golden["images"][:-2]
