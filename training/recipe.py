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

SEEDS = 1 << 32


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

    def __post_init__(self) -> None:
        if type(self.seed) is not int or not 0 <= self.seed < SEEDS:
            raise TrainingError(f"seed is {self.seed!r}; give a whole number of 0 to {SEEDS - 1}")
        for name, memory in (("shared", 0), ("specific", self.codec.memory)):
            books: BooksOptions = getattr(self, name)
            if (books.shuffle or books.turn) and not memory:
                raise TrainingError(f"[{name}] shuffle and turn are for books with a memory; leave them out")
            if books.turn and not books.shuffle:
                raise TrainingError(f"[{name}] turn is for shuffled tokens; give shuffle, or leave turn out")

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
    if unknown or not isinstance(half, bool):
        wrong = unknown or half
        raise TrainingError(f"{path}: unknown section or value {wrong}; known: seed, half, {', '.join(SECTIONS)}")
    sections = {name: _section(path, name, values) for name, values in data.items()}
    try:
        recipe = Recipe(seed=seed, half=half, **sections)
    except TrainingError as error:
        raise TrainingError(f"{path}: {error}") from error
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
    if name == "base_blocks":
        if not isinstance(values, dict):
            raise TrainingError(f"{path}: [base_blocks] is {values!r}; give options of the backbone by name")
        return values
    kind: Any = SECTIONS[name]
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(values) - known) if isinstance(values, dict) else [values]
    if unknown:
        raise TrainingError(f"{path}: [{name}] has unknown names {unknown}; known: {sorted(known)}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    try:
        return kind(**values)
    except TrainingError as error:
        raise TrainingError(f"{path}: [{name}] {error}") from error
