"""Recipes: what they refuse, and what one stage has for itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq.errors import TrainingError
from stcq.training import data
from stcq.training.augment import augment
from stcq.training.options import DataOptions
from stcq.training.recipe import read_recipe
from stcq.training.train import train
from tiny_recipe import TINY

SMALL = f"""{TINY}
[loss]
l1 = 0.0
mse = 2.0
[base]
steps = 20
batch = 2
quantize_after = 30
[specific]
limit = 24
iterations = 1
steps = 1
batch = 4
[decoder]
steps = 20
batch = 2
commitment = 0.0
[decoder.loss]
mse = 0.5
l1 = 3.0
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[codec]\nspeed = 1", "unknown names"),
        ("[train]\nx = 1", "unknown section"),
        ("codec = 3", "unknown names"),
        ("x = [", "no TOML"),
        ("seed = 'a'", "seed"),
        ("[decoder.loss]\nspeed = 1.0", r"recipe.toml: \[decoder\] a stage's loss is {'speed': 1.0}"),
        ("[decoder.loss]\nmse = 'much'", "give numbers by name"),
        ("[base.loss]\nmean = [0.5]", "give numbers by name"),
        ("[decoder]\nloss = 3", "a stage's loss is 3"),
        ("[specific.data]\ncrop = 0.5", r"recipe.toml: \[specific\] a stage's data is {'crop': 0.5}"),
        ("[decoder.data]\nweights = [1]", "give numbers by name"),
        ("[decoder.data]\nwarp = 3.0", "recipe.toml: the stage decoder: warp is 3.0; give a number of 0 to 1"),
        ("[decoder.loss]\ncutoff = 2.0", "recipe.toml: the stage decoder: cutoff is 2.0; give a number of 0 to 1"),
        ("[loss]\ncutoff = -1.0", r"recipe.toml: \[loss\] cutoff is -1.0"),
        ("[decoder]\ninitial = true", r"recipe.toml: \[decoder\] initial is True; give something like 0.0"),
        ("[decoder]\nsteps = 1.5", "steps is 1.5; give something like"),
        ("[base]\nlr = 'fast'", "lr is 'fast'; give something like"),
        ("[data]\nweights = 0.5", "weights is 0.5; give something like"),
        ("[decoder]\ninitial = 1.5", r"recipe.toml: .*initial is 1.5; give a number of 0 to 1"),
    ],
)
def test_bad_recipes(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "recipe.toml").write_text(text)
    with pytest.raises(TrainingError, match=message):
        read_recipe(tmp_path / "recipe.toml")
    with pytest.raises(TrainingError, match="does not exist"):
        read_recipe(tmp_path / "missing.toml")


def test_shipped_recipes_are_readable() -> None:
    recipes = list((Path(__file__).parent.parent.parent / "recipes").rglob("*.toml"))
    assert recipes
    for path in recipes:
        assert read_recipe(path).codec.image_size == 128


def test_a_stage_may_augment_pictures_in_its_own_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
    text = SMALL + "[specific.data]\nblend = 0.5\n[decoder.data]\nwarp = 0.25\nshift = 0\n"
    (tmp_path / "recipe.toml").write_text(text)
    recipe = read_recipe(tmp_path / "recipe.toml")
    seen = []

    def watch(image: Image.Image, size: int, options: DataOptions, rng: np.random.Generator | None) -> Image.Image:
        seen.append((options.blend, options.warp, options.shift))
        return augment(image, size, options, rng)

    monkeypatch.setattr(data, "augment", watch)
    train(recipe, [tmp_path], tmp_path / "run", stages=["base", "specific", "decoder"])
    assert list(dict.fromkeys(seen)) == [(0, 0, 0.03), (0.5, 0, 0.03), (0, 0.25, 0)]


def test_a_stage_may_have_weights_of_its_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "recipe.toml").write_text(SMALL)
    train(read_recipe(tmp_path / "recipe.toml"), [tmp_path], tmp_path / "run", stages=["base", "specific", "decoder"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    steps = {line["stage"]: line for line in lines if line.get("step") == 20}
    assert steps["base"]["loss"] == pytest.approx(2 * steps["base"]["mse"])
    decoder = steps["decoder"]
    assert decoder["loss"] == pytest.approx(0.5 * decoder["mse"] + 3 * decoder["l1"])
