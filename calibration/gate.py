"""The gate: what a candidate computes and how fast it is, against its float sibling, and whether that will do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.means import Mean, People
from ..evaluation.verification import Verification
from .race import Speed

GOLDEN_LATENTS = 0.06  # RMS over RMS


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
    `indices` the nearest codewords there: then `walked` says that sets are no result. `people` as for `Mean.of`.
    """

    latents: NDArray[np.float32]
    sets: NDArray[np.int64]
    indices: NDArray[np.int32]
    psnr: NDArray[np.float64]
    ids: NDArray[np.float64] | None
    verification: Verification | None
    walked: bool = False
    people: People | None = None


@dataclass(frozen=True)
class Scores:
    """A candidate against its sibling on held-out pictures; drops are sibling minus candidate, mean +- standard error.

    Attributes:
        latents: RMS of the latents' difference over their RMS.
        token_agreement: equal indices, where the sets of books agree.
        group_agreement: equal groups; with several switches equal choices of each; None = a codec with a memory.
        psnr, psnr_drop: dB.
        ids, ids_drop: None = no recogniser.
        verification, verification_before: accuracy of original against decoded; None = no recogniser or no pairs.
    """

    latents: float
    token_agreement: float
    group_agreement: float | None
    psnr: Mean
    psnr_drop: Mean
    ids: Mean | None = None
    ids_drop: Mean | None = None
    verification: Verification | None = None
    verification_before: Verification | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def compare(before: Outcome, after: Outcome) -> Scores:
    """Two outcomes on the same pictures."""
    same = before.sets == after.sets
    equal = before.indices == after.indices
    power = max(float(np.square(before.latents).mean()), 1e-12)
    identity: dict[str, Any] = {}
    if before.ids is not None and after.ids is not None:
        drop = Mean.of(before.ids - after.ids, after.people)
        identity = {"ids": Mean.of(after.ids, after.people), "ids_drop": drop}
        identity |= {"verification": after.verification, "verification_before": before.verification}
    return Scores(
        latents=float(np.sqrt(np.square(before.latents - after.latents).mean() / power)),
        token_agreement=float(equal[same].mean()) if same.any() else 0.0,
        group_agreement=None if before.walked else float(same.mean()),
        psnr=Mean.of(after.psnr, after.people),
        psnr_drop=Mean.of(before.psnr - after.psnr, after.people),
        **identity,
    )


def refusals(scores: Scores, limits: Limits, speed: Speed | None = None) -> list[str]:
    """Why a candidate does not pass, one short clause each; empty = it passes. NaN never passes."""
    found: list[str] = []
    least = (
        ("token agreement", scores.token_agreement, limits.token_agreement),
        ("group agreement", scores.group_agreement, limits.group_agreement),
    )
    for what, value, limit in least:
        if value is not None and not value >= limit:
            found.append(f"{what} {value:.3f} < {limit:g}")
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


def golden_refusal(scores: Scores, golden: Scores) -> list[str]:
    """Why a candidate that passes on the held-out pictures fails on the bundle's own photographs, if it does.

    Pictures that are no faces give ranges that no face fits, and held-out ones of the same kind would not notice.
    """
    limit = max(GOLDEN_LATENTS, 2 * scores.latents)
    if golden.latents <= limit:
        return []
    return [f"latents of the golden faces move by {golden.latents:.3f} > {limit:.3f}: calibrated on other pictures"]
