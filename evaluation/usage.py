"""How well the codebooks are used (the paper's Table 4) and how often the router agrees with the exact choice."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Usage:
    """Code usage on a set of pictures.

    Attributes:
        per_token: mean over tokens of the fraction of a code's K values that occur, of whatever set of books.
        entropy_bits: mean over tokens of the entropy of the index, in bits; at most log2 K, too low on few pictures.
        groups_used: groups chosen at least once.
        group_entropy_bits: entropy of the chosen group, in bits.
    """

    per_token: float
    entropy_bits: float
    groups_used: int
    group_entropy_bits: float

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def code_usage(group: NDArray[np.integer[Any]], indices: NDArray[np.integer[Any]], codes: int) -> Usage:
    """Usage of group (N,) and indices (N, T) of a codec with K = codes."""
    counts = np.stack([np.bincount(column, minlength=codes) for column in indices.T])  # (T, K)
    group_counts = np.bincount(group)
    return Usage(
        per_token=float((counts > 0).mean()),
        entropy_bits=float(np.mean([entropy(row) for row in counts])),
        groups_used=int((group_counts > 0).sum()),
        group_entropy_bits=entropy(group_counts),
    )


def entropy(counts: NDArray[np.integer[Any]]) -> float:
    """Entropy in bits of a histogram."""
    share = counts[counts > 0] / counts.sum()
    return float((share * np.log2(1 / share)).sum())
