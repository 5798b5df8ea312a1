"""Recipes: what they refuse, and weights of the loss that one stage has for itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq.errors import TrainingError
from stcq.training.recipe import read_recipe
from stcq.training.train import train

SMALL = """
[codec]
tokens = 4
codes = 4
dim = 3
image_size = 32
[codec.backbone_options]
encoder_stem = 4
encoder_widths = [8, 8, 8]
encoder_blocks = [0, 0, 0]
encoder_mixers = 0
decoder_stem = 4
decoder_widths = [8, 8, 8]
decoder_blocks = [0, 0, 0]
decoder_mixers = 0
[data]
workers = 0
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
        ("[decoder.loss]\nspeed = 1.0", r"\['speed'\] of a stage's loss are unknown"),
        ("[decoder.loss]\nmse = 'much'", r"\['mse'\] of a stage's loss"),
        ("[base.loss]\nmean = 0.5", r"\['mean'\] of a stage's loss"),
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
