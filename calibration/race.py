"""How fast graphs are beside other ones: both timed in turn, in one run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from ..runtime.backends.base import Session

Arrays = dict[str, NDArray[Any]]
PAIRS, SECONDS = 41, 20.0  # most timed pairs, and most time for them


@dataclass(frozen=True)
class Speed:
    """Times of one picture through two encoders in turn: medians in ms, and quartiles of the pairs' ratios.

    To its tokens where graphs choose these, else to the latents.
    """

    sibling: str
    sibling_ms: float
    ms: float
    ratio: float
    lower: float
    upper: float
    pairs: int
    threads: int


def race(
    name: str,
    sibling: Sequence[Session],
    candidate: Sequence[Session],
    feeds: Arrays,
    threads: int,
    seconds: float = SECONDS,
) -> Speed:
    """Time two chains of graphs in turn: each pair runs one after the other, and pairs alternate in which goes first.

    A graph is fed with what the one before it gives.
    """
    for _ in range(3):
        _time(sibling, feeds)
        _time(candidate, feeds)
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


def _time(chain: Sequence[Session], feeds: Arrays) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    for session in chain:
        feeds = session.run(feeds)
    return time.perf_counter() - start
