"""Classical codecs on the codec's own faces: at byte budgets, and at the codec's identity similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .faces import Images
from .means import Mean, People
from .peers import best, encodings, psnr
from .recognizer import Recognizer


@dataclass(frozen=True)
class PeerPoint:
    """A classical codec at one byte budget.

    Attributes:
        codec: its name.
        budget: most bytes of a whole file.
        fitting: fraction of pictures that it could write within the budget; the others count with their smallest file.
        size: bytes of the whole file; codestream: without headers.
        psnr, ids: as for the codec.
    """

    codec: str
    budget: int
    fitting: float
    size: Mean
    codestream: Mean
    psnr: Mean
    ids: Mean


@dataclass(frozen=True)
class Crossing(PeerPoint):
    """A classical codec at the least budget with the codec's IDS.

    Attributes:
        error: standard error of `size` there, in bytes: that of the mean difference of IDS, picture by picture, over
            the slope of the curve (the delta method). NaN = one picture, or a flat curve.
    """

    error: float


class PeerCurve:
    """One classical codec on some pictures; `at(budget)` measures it there."""

    def __init__(
        self,
        name: str,
        images: Images,
        plain: NDArray[np.float64],
        recognizer: Recognizer,
        people: People | None = None,
    ) -> None:
        """Write every picture at all scales and qualities.

        Args:
            name: from `stcq.evaluation.peers.FORMATS`.
            images: (N, S, S, 3) uint8.
            plain: their embeddings (N, E).
            recognizer: that made them.
            people: (N,) as for `Mean.of`.
        """
        self.name = name
        self._pictures = [Image.fromarray(pixels) for pixels in images]
        self._found = [encodings(name, picture) for picture in self._pictures]
        self._plain, self._recognizer, self._people = plain, recognizer, people
        self._columns = lru_cache(maxsize=None)(self._measure)

    def at(self, budget: int) -> PeerPoint:
        """Each picture with the scale and quality of its best PSNR within the budget."""
        fits, *columns = self._columns(budget)
        return PeerPoint(self.name, budget, float(fits.mean()), *(Mean.of(c, self._people) for c in columns))

    def _measure(self, budget: int) -> NDArray[np.float64]:
        """Whether it fits, bytes, bytes without headers, PSNR and IDS of every picture, (5, N)."""
        rows = []
        for picture, found, embedding in zip(self._pictures, self._found, self._plain, strict=True):
            one, image, fits = best(found, budget, lambda image, picture=picture: psnr(picture, image))  # type: ignore[misc]
            ids = float(embedding @ self._recognizer.embed(np.asarray(image)))
            rows.append((fits, len(one.content), one.codestream, psnr(picture, image), ids))
        return np.array(rows, float).T

    def reaching(self, ids: NDArray[np.float64], budgets: Sequence[int]) -> Crossing | None:
        """The least budget whose mean IDS is at least that of `ids`, by bisection; None: no budget has it.

        Args:
            ids: the codec's, of the same pictures (N,).
            budgets: where to look first: below the first of them that has it.
        """
        wanted = float(ids.mean())
        steps = sorted({0, *budgets})
        first = next((n for n, budget in enumerate(steps) if budget and self.at(budget).ids.value >= wanted), None)
        if first is None:
            return None
        low, high = steps[first - 1], steps[first]
        ends = [self.at(max(1, end)) for end in (low, high)]
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle).ids.value >= wanted else (middle, high)
        rise, run = (getattr(ends[1], name).value - getattr(ends[0], name).value for name in ("ids", "size"))
        error = Mean.of(self._columns(high)[4] - ids, self._people).error
        return Crossing(**vars(self.at(high)), error=error * run / rise if rise > 0 else math.nan)


def default_budgets(size: int) -> tuple[int, ...]:
    """From the packet's size to seven times as much."""
    return tuple(round(size * factor) for factor in (1, 1.5, 2, 3, 4, 5, 7))
