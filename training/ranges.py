"""What values a recipe's numbers may have."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import TrainingError
from ..models.config import same_kind


class Range(NamedTuple):
    """Numbers from `least` to `most`; `above` leaves `least` itself out, `below` `most` itself."""

    least: float = 0
    most: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is such a number, and finite."""
        if not isinstance(value, int | float) or not math.isfinite(value):
            return False
        return self.least <= value <= self.most and not (
            (self.above and value == self.least) or (self.below and value == self.most)
        )

    def __str__(self) -> str:
        if math.isinf(self.least):
            return "that are finite"
        if math.isinf(self.most):
            return f"above {self.least}" if self.above else f"of {self.least} or more"
        if self.below:
            return f"of {self.least} or more, below {self.most}"
        return f"above {self.least}, up to {self.most}" if self.above else f"of {self.least} to {self.most}"


SHARE = Range(0, 1)
FRACTION = Range(0, 1, above=True)
DECAY = Range(0, 1, below=True)
WEIGHT, SOME, RATE = Range(0), Range(1), Range(0, above=True)


def check_values(options: Any, ranges: Mapping[str, Range]) -> None:
    """Refuse options, a dataclass, that are of another kind than their defaults or out of range.

    Of an option that is several numbers each must be in its range.

    Raises:
        TrainingError: so.
    """
    for option in dataclasses.fields(options):
        default, value = option.default, getattr(options, option.name)
        if default is not dataclasses.MISSING and not same_kind(value, default):
            raise TrainingError(f"{option.name} is {value!r}; give something like {default!r}")
    for name, wanted in ranges.items():
        value = getattr(options, name)
        if isinstance(value, tuple) and not all(same_kind(part, 0.0) and wanted.holds(part) for part in value):
            raise TrainingError(f"{name} is {value!r}; give numbers {wanted}")
        if not isinstance(value, tuple) and not wanted.holds(value):
            raise TrainingError(f"{name} is {value!r}; give a number {wanted}")


def check_numbers(name: str, values: Any, options: Any, without: frozenset[str]) -> None:
    """Refuse what is not a table of numbers by names of the options, a dataclass, that have one.

    Args:
        name: of the table. without: options that no stage can have for itself.

    Raises:
        TrainingError: so.
    """
    known = {f.name for f in dataclasses.fields(options) if isinstance(f.default, float)} - without
    fits = isinstance(values, dict) and all(same_kind(value, 0.0) for value in values.values())
    if not fits or values.keys() - known:
        raise TrainingError(f"a stage's {name} is {values}; give numbers by name, known: {', '.join(sorted(known))}")
