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
        ("seed = -1", "recipe.toml: seed is -1; give a whole number of 0 to 4294967295"),
        ("seed = true", "seed is True; give a whole number"),
        ("seed = 99999999999999", "seed is 99999999999999; give a whole number"),
        ("base_blocks = 3", r"\[base_blocks\] is 3; give options of the backbone by name"),
        ("[base]\nbatch = 0", r"recipe.toml: \[base\] batch is 0; give a number of 1 or more"),
        ("[base]\nsteps = -1", "steps is -1; give a number of 0 or more"),
        ("[base]\nlr = nan", "lr is nan; give a number above 0"),
        ("[base]\nlr = inf", "lr is inf; give a number above 0"),
        ("[base]\nema = 1.0", "ema is 1.0; give a number of 0 or more, below 1"),
        ("[base]\ncoarse_codes = 0", "coarse_codes is 0; give a number of 1 or more"),
        ("[decoder]\nvalidate = 0", "validate is 0; give a number of 1 or more"),
        ("[decoder]\naccumulate = 0", "accumulate is 0; give a number of 1 or more"),
        ("[data]\ncrop = 0.0", r"\[data\] crop is 0.0; give a number above 0, up to 1"),
        ("[data]\ncrop = nan", "crop is nan; give a number above 0, up to 1"),
        ("[data]\nweights = [1.0, 0.0]", r"weights is \(1.0, 0.0\); give numbers above 0"),
        ("[data]\nweights = ['a']", r"weights is \('a',\); give numbers above 0"),
        ("[data]\nworkers = -1", "workers is -1; give a number of 0 or more"),
        ("[data]\nwarp = true", "warp is True; give something like 0.0"),
        ("[loss]\nmean = [1.0]", "give three numbers each: red, green and blue"),
        ("[loss]\nmean = [nan, 0.0, 0.0]", "mean is .*; give numbers that are finite"),
        ("[loss]\nstd = [1.0, 0.0, 1.0]", "std is .*; give numbers above 0"),
        ("[loss]\njitter = 0.95", "jitter is 0.95; give a number of 0 to 0.9"),
        ("[loss]\nmse = -1.0", "mse is -1.0; give a number of 0 or more"),
        ("[shared]\nlimit = 0", r"\[shared\] limit is 0; give a number of 1 or more"),
        ("[specific]\niterations = -1", "iterations is -1; give a number of 0 or more"),
        ("[specific]\nprior = nan", "prior is nan; give a number of 0 or more"),
        ("[specific]\nturn = nan", "turn nan; use 0 for none, or more"),
        ("[specific]\nstart = []", r"start is \(\); give something like 'lloyd'"),
        ("[base.loss]\nbalance = 1.0", r"a stage's loss is {'balance': 1.0}"),
        ("[decoder.loss]\nmetric = 1.0", r"a stage's loss is {'metric': 1.0}"),
        ("[decoder.loss]\nmse = true", r"a stage's loss is {'mse': True}"),
        ("[decoder.loss]\nmse = nan", "the stage decoder: mse is nan"),
        (
            "[specific]\nshuffle = 9",
            r"recipe.toml: \[specific\] shuffle and turn are for books with a memory",
        ),
        ("[codec]\ngroups = 4\nmemory = 2\n[shared]\nshuffle = 9", r"\[shared\] shuffle and turn are for books with a"),
        ("[codec]\ngroups = 4\nmemory = 2\n[specific]\nturn = 1.0", r"\[specific\] turn is for shuffled tokens; give"),
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
