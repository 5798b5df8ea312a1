"""Mixed precision: which layers int8 hurts most, and the fewest of them that must stay float for the gate to pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from .jury import Encode

Result = TypeVar("Result")


@dataclass(frozen=True)
class Effect:
    """What quantising one layer alone does to the latents: RMS of the difference over their RMS."""

    layer: str
    latents: float


class Clock:
    """The time that a search may take."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def over(self) -> bool:
        """Whether it is used up."""
        return time.monotonic() >= self._end


def rank_layers(
    layers: Sequence[str],
    build: Callable[[str], Encode],
    float_encode: Encode,
    batches: Sequence[NDArray[np.uint8]],
    clock: Clock,
) -> list[Effect]:
    """Layers by their effect on the latents, worst first; equal ones in the order of the graph.

    Args:
        layers: their names, in the order of the graph.
        build: a layer -> the encoder in which only this one is int8.
        float_encode: the float encoder.
        batches: pictures (B, S, S, 3) uint8.
        clock: layers that it has no time for count as harmless.
    """
    wanted = [float_encode(images) for images in batches]
    power = max(float(np.mean([np.square(z).mean() for z in wanted])), 1e-12)
    effects = []
    for layer in layers:
        value = 0.0
        if not clock.over:
            encode = build(layer)
            moved = [np.square(encode(images) - z).mean() for images, z in zip(batches, wanted, strict=True)]
            value = float(np.sqrt(np.mean(moved) / power))
        effects.append(Effect(layer, round(value, 6)))
    return sorted(effects, key=lambda effect: -effect.latents)


def fewest(
    ranking: Sequence[str], trial: Callable[[Collection[str]], tuple[bool, Result]], clock: Clock
) -> tuple[list[str], Result] | None:
    """The smallest number of worst layers that must stay float, by bisection over the ranking.

    Assumes that one more float layer never makes a candidate worse, as it nearly always is; the answer is checked
    itself in any case.

    Args:
        ranking: layers, worst first.
        trial: float layers -> whether the candidate passes, and whatever belongs to it.
        clock: when it is over, the smallest set found so far is the answer.

    Returns:
        The layers and their trial's result; None = no set passed in time.
    """
    low, high = 1, len(ranking) - 1  # all in float would be the sibling itself
    best: tuple[list[str], Result] | None = None
    while low <= high and not clock.over:
        middle = (low + high) // 2
        floating = list(ranking[:middle])
        passed, result = trial(floating)
        if passed:
            best, high = (floating, result), middle - 1
        else:
            low = middle + 1
    return best
