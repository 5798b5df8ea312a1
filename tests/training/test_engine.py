"""Several devices, gradient accumulation, the adversarial term: the same training in other ways."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stcq.errors import TrainingError
from stcq.training.adversary import Discriminator
from stcq.training.recipe import read_recipe
from stcq.training.train import train

from .test_train import RECIPE


@pytest.fixture
def pictures(tmp_path: Path, face: np.ndarray) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(24):
        Image.fromarray(np.roll(face, number * 3, number % 2)).save(tmp_path / "pictures" / f"{number:02}.png")
    return tmp_path / "pictures"


@pytest.fixture
def start(tmp_path: Path, pictures: Path) -> Path:
    """A run's token-specific checkpoint, from which a decoder stage can start."""
    torch.set_num_threads(1)
    recipe = write(tmp_path / "start.toml", RECIPE)
    train(read_recipe(recipe), [pictures], tmp_path / "start", stages=["base", "shared", "specific"])
    return tmp_path / "start" / "specific"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def log(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_devices_take_the_steps_of_one(tmp_path: Path, pictures: Path, start: Path) -> None:
    recipe = write(tmp_path / "recipe.toml", RECIPE.replace("[decoder]\nsteps = 6", "[decoder]\nsteps = 20"))
    command = [Path(sys.executable).with_name("stcq"), "train", recipe, "--data", pictures, "--init", start]
    for devices in ("1", "2"):
        options = [
            "--stage",
            "3",
            "--device",
            "cpu",
            "--threads",
            "1",
            "--devices",
            devices,
            "--out",
            tmp_path / devices,
        ]
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    one, two, before = (weights(p) for p in (tmp_path / "1" / "decoder", tmp_path / "2" / "decoder", start))
    assert not torch.equal(one["decoder.stem.0.weight"], before["decoder.stem.0.weight"])
    moved = sum(float((one[name] - before[name]).square().sum()) for name in one if "num_batches" not in name)
    apart = sum(float((one[name] - two[name]).square().sum()) for name in one if "num_batches" not in name)
    assert apart < 0.01 * moved  # but for rounding in bf16, where there is that
    assert len([r for r in log(tmp_path / "2") if r.get("step") == 20 and "loss" in r]) == 1


def test_two_devices_go_through_all_stages(tmp_path: Path, pictures: Path) -> None:
    recipe = write(tmp_path / "recipe.toml", RECIPE)
    command = [Path(sys.executable).with_name("stcq"), "train", recipe, "--data", pictures, "--val", pictures]
    options = ["--device", "cpu", "--threads", "1", "--devices", "2", "--out", tmp_path / "run"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run" / "decoder").values())


def test_accumulated_parts_make_the_whole_batch(tmp_path: Path, pictures: Path, start: Path) -> None:
    found = []
    for parts in (1, 2):
        recipe = write(tmp_path / "recipe.toml", RECIPE + f"accumulate = {parts}\n")
        run = tmp_path / f"run{parts}"
        train(read_recipe(recipe), [pictures], run, stages=["decoder"], init=start)
        found.append(weights(run / "decoder"))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0.02, atol=2e-3)


def test_a_batch_that_does_not_divide(tmp_path: Path, pictures: Path, start: Path) -> None:
    recipe = write(tmp_path / "recipe.toml", RECIPE + "accumulate = 3\n")
    with pytest.raises(TrainingError, match="does not divide"):
        train(read_recipe(recipe), [pictures], tmp_path / "run", stages=["decoder"], init=start)


def test_the_adversarial_term_is_resumed_exactly(
    tmp_path: Path, pictures: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = read_recipe(write(tmp_path / "recipe.toml", RECIPE + "gan = 0.1\ngan_start = 2\n"))
    options = {"stages": ["decoder"], "init": start}
    train(recipe, [pictures], tmp_path / "whole", **options)
    real = Discriminator.forward
    calls = []

    def broken(self: Discriminator, images: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return real(self, images)

    monkeypatch.setattr(Discriminator, "forward", broken)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, [pictures], tmp_path / "cut", **options)
    assert (tmp_path / "cut" / "decoder.state").exists()
    monkeypatch.undo()
    train(recipe, [pictures], tmp_path / "cut", resume=True, **options)
    whole, cut = (weights(tmp_path / run / "decoder") for run in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    train(read_recipe(write(tmp_path / "p.toml", RECIPE)), [pictures], tmp_path / "plain", **options)
    assert not torch.equal(
        weights(tmp_path / "plain" / "decoder")["decoder.stem.0.weight"], whole["decoder.stem.0.weight"]
    )


@pytest.mark.parametrize("update", ["none", "ema", "gradient"])
def test_ways_to_move_the_books(tmp_path: Path, pictures: Path, start: Path, update: str) -> None:
    text = RECIPE.replace('update = "gradient"', f'update = "{update}"').replace('start = "copy"', 'start = "lloyd"')
    recipe = read_recipe(write(tmp_path / "recipe.toml", text.replace("steps = 20", "steps = 60")))
    last = train(recipe, [pictures], tmp_path / "run", stages=["specific"], init=start)
    records = [r for r in log(tmp_path / "run") if r.get("step") == 50 and "router" in r]
    assert records[0]["quantization"] < 1
    assert torch.equal(weights(last)["codebooks.weight"], weights(last)["codebooks.weight"].half().float())


def test_copies_need_shared_books(tmp_path: Path, pictures: Path, start: Path) -> None:
    recipe = read_recipe(write(tmp_path / "recipe.toml", RECIPE))
    with pytest.raises(TrainingError, match="shared stage before it"):
        train(recipe, [pictures], tmp_path / "run", stages=["specific"], init=start)


@pytest.mark.filterwarnings("ignore")
def test_compiled_training(tmp_path: Path, pictures: Path, start: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    captured = functools.partial(torch.compile, backend="aot_eager")  # the same graphs without minutes of C++
    monkeypatch.setattr(torch, "compile", captured)
    recipe = read_recipe(write(tmp_path / "recipe.toml", RECIPE))
    for compiled in (False, True):
        train(recipe, [pictures], tmp_path / str(compiled), stages=["decoder"], init=start, compiled=compiled)
    found = [weights(tmp_path / run / "decoder") for run in ("False", "True")]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0.02, atol=2e-3)
