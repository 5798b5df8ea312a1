"""Face verification accuracy: ten folds, the threshold picked on nine and scored on the tenth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from .pairs import Pair

THRESHOLDS = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class Verification:
    """Accuracy over folds.

    Attributes:
        accuracy: mean over folds, in [0, 1].
        error: standard error over folds.
        pairs: how many.
    """

    accuracy: float
    error: float
    pairs: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def verify_pairs(one: NDArray[np.float64], other: NDArray[np.float64], pairs: Sequence[Pair]) -> Verification:
    """Accuracy of telling pairs apart by the squared distance of unit embeddings.

    Args:
        one, other: embeddings (N, E) of the pictures that pairs' first and second index name (they differ when
            originals are compared with decoded pictures).
        pairs: with their folds.

    Raises:
        ImageError: a fold without pairs, or one kind of pair only.
    """
    same = np.array([pair.same for pair in pairs])
    fold = np.array([pair.fold for pair in pairs])
    folds = np.unique(fold)
    if len(folds) < 2 or same.all() or not same.any():
        raise ImageError(f"{len(pairs)} pairs are not enough to verify; give pairs of both kinds in at least two folds")
    left, right = one[[pair.one for pair in pairs]], other[[pair.other for pair in pairs]]
    distance = np.square(left - right).sum(1)  # (pairs,)
    right_at = (distance[None] < THRESHOLDS[:, None]) == same  # (thresholds, pairs)
    scores = []
    for number in folds:
        best = right_at[:, fold != number].mean(1).argmax()
        scores.append(right_at[best, fold == number].mean())
    return Verification(float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(len(scores))), len(pairs))
