"""Recipes: TOML files that fix everything about a training run but the place of its data."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..models.config import CodecConfig
from .options import BooksOptions, DataOptions, LossOptions, StageOptions


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    `codec` is the final codec. The base stage has one group, and with `base_blocks` a backbone with fewer residual
    blocks (options of the backbone); the ones it lacks are added as the identity when the books are fitted.
    With `half` the weights of every finished stage are rounded to half precision, which halves the checkpoints.
    """

    codec: CodecConfig = field(default_factory=CodecConfig)
    data: DataOptions = field(default_factory=DataOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    base_blocks: dict[str, Any] = field(default_factory=dict)
    base: StageOptions = field(default_factory=StageOptions)
    shared: BooksOptions = field(default_factory=BooksOptions)
    specific: BooksOptions = field(default_factory=BooksOptions)
    decoder: StageOptions = field(default_factory=StageOptions)
    seed: int = 0
    half: bool = False

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return dataclasses.asdict(self)

    def data_of(self, stage: str) -> DataOptions:
        """How a stage ("base", "shared", "specific" or "decoder") reads and augments pictures.

        Raises:
            TrainingError: a value of the stage's own is out of range.
        """
        return dataclasses.replace(self.data, **getattr(self, stage).data)


SECTIONS = {
    "codec": CodecConfig,
    "data": DataOptions,
    "loss": LossOptions,
    "base_blocks": dict,
    "base": StageOptions,
    "shared": BooksOptions,
    "specific": BooksOptions,
    "decoder": StageOptions,
}


def read_recipe(path: Path) -> Recipe:
    """Read a TOML recipe.

    Raises:
        TrainingError: the file is missing or no TOML, names something unknown, or has a value of another kind.
        CheckpointError: the codec section has impossible values.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise TrainingError(f"{path} does not exist; the recipes that come with stcq are in recipes/") from None
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} is no TOML recipe: {error}") from error
    seed, half = data.pop("seed", 0), data.pop("half", False)
    unknown = sorted(set(data) - set(SECTIONS))
    if unknown or not isinstance(seed, int) or not isinstance(half, bool):
        wrong = unknown or (seed, half)
        raise TrainingError(f"{path}: unknown section or value {wrong}; known: seed, half, {', '.join(SECTIONS)}")
    recipe = Recipe(seed=seed, half=half, **{name: _section(path, name, values) for name, values in data.items()})
    for stage in ("base", "shared", "specific", "decoder"):
        options = getattr(recipe, stage)
        try:
            recipe.data_of(stage)
            if isinstance(options, StageOptions):
                options.weights(recipe.loss)
        except TrainingError as error:
            raise TrainingError(f"{path}: the stage {stage}: {error}") from error
    return recipe


def _section(path: Path, name: str, values: Any) -> Any:
    """One section as its dataclass."""
    if name == "base_blocks" and isinstance(values, dict):
        return values
    kind: Any = SECTIONS[name]
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known) if isinstance(values, dict) else [values]
    if unknown:
        raise TrainingError(f"{path}: [{name}] has unknown names {unknown}; known: {sorted(known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        made = kind(**values)
    except TrainingError as error:
        raise TrainingError(f"{path}: [{name}] {error}") from error
    for option in dataclasses.fields(kind):
        default, value = option.default, getattr(made, option.name)
        if default is not dataclasses.MISSING and not _same_kind(value, default):
            raise TrainingError(f"{path}: [{name}] {option.name} is {value!r}; give something like {default!r}")
    return made


def _same_kind(value: Any, default: Any) -> bool:
    """Whether a value can stand for a default: a whole number also for a fraction, but no truth value for a number."""
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
