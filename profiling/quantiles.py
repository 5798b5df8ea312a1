"""Percentiles with confidence intervals, and ratios of two interleaved series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
NORMAL = 1.959964  # the standard normal's two-sided 95 % point
PERCENTILES = {"p50": 0.50, "p90": 0.90, "p99": 0.99}
RESAMPLES = 1000
FEWEST = 5  # rounds: resampling fewer gives back their own smallest and largest


class Figure(NamedTuple):
    """A value with its 95 % confidence interval; None = the series is too short to bound it."""

    value: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """The JSON object."""
        return self._asdict()


def summary(times: Sequence[float]) -> dict[str, Any]:
    """p50, p90, p99, max and mean of a series, in its unit.

    Args:
        times: at least one value.

    Returns:
        "count", "mean", "max", and for each percentile "value", "low", "high".
    """
    values = np.sort(np.asarray(times, np.float64))
    found = {name: percentile(values, q).to_dict() for name, q in PERCENTILES.items()}
    return {"count": len(values), "mean": float(values.mean()), **found, "max": float(values[-1])}


def percentile(values: NDArray[np.float64], q: float) -> Figure:
    """A percentile of sorted values with the interval of order statistics, which assumes no distribution.

    The number of values below the true percentile is binomial(n, q); the interval is between the order statistics
    n q -+ 1.96 sqrt(n q (1 - q)) (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
    """
    count = len(values)
    spread = NORMAL * math.sqrt(count * q * (1 - q))
    low, high = math.floor(count * q - spread), math.ceil(count * q + spread)
    return Figure(
        float(np.quantile(values, q)),
        float(values[low - 1]) if low >= 1 else None,
        float(values[high]) if high < count else None,
    )


def ratio(times: Sequence[float], baseline: Sequence[float], seed: int = 0) -> Figure:
    """Median of `baseline` over the median of `times`: above 1 = faster than the baseline.

    The interval is a bootstrap over rounds (Efron 1979): both series were measured in the same rounds, so a round
    is drawn with what both of them took in it. Fewer than FEWEST rounds bound nothing.

    Args:
        times, baseline: one value per round, of equal length.
        seed: of the resampling, so that a report can be made again from its numbers.
    """
    mine, theirs = np.asarray(times, np.float64), np.asarray(baseline, np.float64)
    value = float(np.median(theirs) / np.median(mine))
    if len(mine) < FEWEST:
        return Figure(value, None, None)
    draws = np.random.default_rng(seed).integers(0, len(mine), (RESAMPLES, len(mine)))
    drawn = np.median(theirs[draws], 1) / np.median(mine[draws], 1)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(value, float(low), float(high))


def median_over_turns(times: Sequence[float], turns: Sequence[float], seed: int = 0) -> Figure:
    """Median of all rounds, with an interval that holds though rounds of one turn share the machine's state.

    It is a bootstrap over turns, as of `ratio`: the interval of order statistics takes every round for an independent
    one, and called every third pair of equal profiles different where turns differ by 1 %.

    Args:
        times: of all rounds.
        turns: the median of each turn; fewer than FEWEST bound nothing.
        seed: of the resampling.
    """
    value, medians = float(np.median(times)), np.asarray(turns, np.float64)
    if len(medians) < FEWEST:
        return Figure(value, None, None)
    draws = np.random.default_rng(seed).integers(0, len(medians), (RESAMPLES, len(medians)))
    low, high = np.quantile(np.median(medians[draws], 1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Figure(value, min(value, float(low)), max(value, float(high)))


def drift(times: Sequence[float], parts: int = 4) -> float | None:
    """How far the medians of consecutive parts of a series lie apart, as a fraction of the whole median.

    A machine that is left alone gives a few per cent at most; None for a series too short to be cut.
    """
    values = np.asarray(times, np.float64)
    if len(values) < 3 * parts:
        return None
    medians = [float(np.median(part)) for part in np.array_split(values, parts)]
    return (max(medians) - min(medians)) / float(np.median(values))


def is_stable(times: Sequence[float], window: int = 5, tolerance: float = 0.03) -> bool:
    """Whether a warming-up series has settled: its last two windows have medians within the tolerance."""
    if len(times) < 2 * window:
        return False
    late, early = np.median(times[-window:]), np.median(times[-2 * window : -window])
    return bool(abs(late - early) <= tolerance * early)
