"""The paper's stages 1 to 3 on an imported tokenizer: shared books, token-specific ones, decoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers as tiny
import torch
from PIL import Image
from stcq.models import checkpoint
from stcq.models.importing import import_weights
from stcq.training.recipe import read_recipe
from stcq.training.train import train

RECIPE = """
[codec]
tokens = {tokens}
codes = 5
groups = 2
dim = {dim}
image_size = 16
backbone = "{backbone}"
[codec.backbone_options]
{options}
[data]
workers = 0
[shared]
limit = 32
iterations = 2
steps = 4
batch = 8
[specific]
limit = 32
start = "copy"
update = "gradient"
steps = 4
batch = 8
[decoder]
steps = 2
batch = 2
warmup = 1
"""


@pytest.mark.parametrize("name", ["titok", "taming_vqgan"])
def test_stages_on_an_imported_tokenizer(name: str, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (16, 20, 20, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{number}.png")
    weights = tiny.weights(name, tmp_path / "w.safetensors")
    start = import_weights(name, weights, tmp_path / "start", settings={"image_size": 16}).checkpoint
    old = checkpoint.load(start)
    options = "\n".join(f"{key} = {json.dumps(value)}" for key, value in old.config.backbone_options.items())
    text = RECIPE.format(tokens=old.config.tokens, dim=old.config.dim, backbone=name, options=options)
    (tmp_path / "recipe.toml").write_text(text)
    recipe = read_recipe(tmp_path / "recipe.toml")
    stages = ["shared", "specific", "decoder"]
    last = train(recipe, [tmp_path / "faces"], tmp_path / "run", stages=stages, init=start, device="cpu")
    new = checkpoint.load(last)
    assert (new.config.groups, new.config.books) == (2, "specific")
    changed = {
        half: any(
            not torch.equal(a, b)
            for a, b in zip(getattr(old, half).parameters(), getattr(new, half).parameters(), strict=True)
        )
        for half in ("encoder", "decoder")
    }
    assert changed == {"encoder": False, "decoder": True}
