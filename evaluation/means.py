"""Means over pictures with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

People = NDArray[np.int64]


@dataclass(frozen=True)
class Mean:
    """A mean over pictures and its standard error; NaN where that is unknown, of one picture."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.floating[Any]], people: People | None = None) -> Mean:
        """Mean and standard error of at least one value.

        Args:
            values: (N,).
            people: (N,), which person each picture shows; None = everyone another. Pictures of one person are alike,
                so deviations are summed person by person: sqrt(G / (G - 1) sum_g (sum_i d_gi)^2) / N for G people
                (Liang and Zeger 1986, "Longitudinal data analysis using generalized linear models").
        """
        found = np.asarray(values, np.float64)
        sums = found - found.mean()
        if people is not None:
            sums = np.bincount(np.unique(people, return_inverse=True)[1], weights=sums)
        groups = len(sums)
        error = math.sqrt(groups / (groups - 1) * np.square(sums).sum()) / len(found) if groups > 1 else math.nan
        return cls(float(found.mean()), float(error))

    def __str__(self) -> str:
        return f"{self.value:.4g} +- {known(self.error, '.2g')}"


def known(error: float, spec: str) -> str:
    """A standard error as text; "?" = unknown."""
    return "?" if math.isnan(error) else format(error, spec)


def without_nan(value: Any) -> Any:
    """JSON-ready objects with None in the place of NaN, which JSON has not."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
