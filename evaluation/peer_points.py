"""Classical codecs on the codec's own faces: at byte budgets, and at the codec's identity similarity."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .faces import Images
from .peers import best, encodings, psnr
from .quality import Mean
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


class PeerCurve:
    """One classical codec on some pictures; `at(budget)` measures it there."""

    def __init__(self, name: str, images: Images, plain: NDArray[np.float64], recognizer: Recognizer) -> None:
        """Write every picture at all scales and qualities.

        Args:
            name: from `stcq.evaluation.peers.FORMATS`.
            images: (N, S, S, 3) uint8.
            plain: their embeddings (N, E).
            recognizer: that made them.
        """
        self.name = name
        self._pictures = [Image.fromarray(pixels) for pixels in images]
        self._found = [encodings(name, picture) for picture in self._pictures]
        self._plain, self._recognizer = plain, recognizer
        self.at = lru_cache(maxsize=None)(self._measure)

    def _measure(self, budget: int) -> PeerPoint:
        """Each picture with the scale and quality of its best PSNR within the budget."""
        rows = []
        for picture, found, embedding in zip(self._pictures, self._found, self._plain, strict=True):
            one, image, fits = best(found, budget, lambda image, picture=picture: psnr(picture, image))  # type: ignore[misc]
            ids = float(embedding @ self._recognizer.embed(np.asarray(image)))
            rows.append((fits, len(one.content), one.codestream, psnr(picture, image), ids))
        fits, *columns = np.array(rows, float).T
        return PeerPoint(self.name, budget, float(fits.mean()), *(Mean.of(column) for column in columns))

    def reaching(self, ids: float, low: int, high: int) -> PeerPoint | None:
        """The least budget above `low` and up to `high` whose mean IDS is at least `ids`, by bisection; None: none."""
        if self.at(high).ids.value < ids:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.at(middle).ids.value >= ids else (middle, high)
        return self.at(high)


def default_budgets(size: int) -> tuple[int, ...]:
    """From the packet's size to seven times as much."""
    return tuple(round(size * factor) for factor in (1, 1.5, 2, 3, 4, 5, 7))
