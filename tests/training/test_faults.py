"""Training that is interrupted between stages, runs into numbers that are none, or has material that cannot be read."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stcq.errors import TrainingError
from stcq.models import checkpoint
from stcq.models.codebooks import SwitchableCodebooks
from stcq.runtime.sources import open_source
from stcq.runtime.switching import Switching
from stcq.training import curves
from stcq.training.books import BooksStage
from stcq.training.data import Faces, loader
from stcq.training.ema import BookAverage
from stcq.training.engine import open_fabric
from stcq.training.losses import router_losses
from stcq.training.options import DataOptions
from stcq.training.recipe import read_recipe
from stcq.training.run import Run
from stcq.training.stage import Stage
from stcq.training.train import train
from tiny_recipe import TINY

RECIPE = f"""
seed = 3
{TINY}
[base]
steps = 4
batch = 4
warmup = 2
quantize_after = 2
[specific]
limit = 24
iterations = 2
steps = 6
batch = 16
checkpoint = 3
[decoder]
steps = 2
batch = 4
"""
GROWN = "[base_blocks]\ndecoder_blocks = [0, 0, 0]\n"


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


@pytest.fixture
def pictures(tmp_path: Path, face: np.ndarray) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(16):
        Image.fromarray(np.roll(face, number * 3, number % 2)).save(tmp_path / "pictures" / f"{number:02}.png")
    return tmp_path / "pictures"


def before_the_books(stage: BooksStage) -> bool:
    return True


def in_the_books(stage: BooksStage) -> bool:
    return stage.step == 4  # the state is that of step 3


def before_the_decoder_s_first_state(stage: Stage) -> bool:
    return stage.name == "decoder" and stage.step == 1


@pytest.mark.parametrize(
    ("more", "kind", "method", "when"),
    [
        ("", BooksStage, "start", before_the_books),
        (GROWN, BooksStage, "train_step", in_the_books),
        ("gan = 0.1\n" + GROWN, Stage, "train_step", before_the_decoder_s_first_state),
    ],
)
def test_a_run_cut_behind_a_stage_resumes_to_the_same_weights(
    recipe: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: str,
    kind: type,
    method: str,
    when: Callable[..., bool],
) -> None:
    """Router, further blocks and the discriminator are drawn by their stage, whatever ran before in the process."""
    recipe.write_text(RECIPE + more)
    stages = ("base", "specific", "decoder")
    train(read_recipe(recipe), [pictures], tmp_path / "whole", stages=stages)
    real = getattr(kind, method)

    def cut(stage: BooksStage | Stage, *given: object) -> object:
        if when(stage):
            raise KeyboardInterrupt
        return real(stage, *given)

    monkeypatch.setattr(kind, method, cut)
    with pytest.raises(KeyboardInterrupt):
        train(read_recipe(recipe), [pictures], tmp_path / "cut", stages=stages)
    monkeypatch.undo()
    train(read_recipe(recipe), [pictures], tmp_path / "cut", stages=stages, resume=True)
    for stage in stages:
        whole, cut_ = (load_file(tmp_path / run / stage / "model.safetensors") for run in ("whole", "cut"))
        assert whole.keys() == cut_.keys()
        assert all(torch.equal(whole[name], cut_[name]) for name in whole)


@pytest.mark.parametrize("resume", [False, True])
def test_later_stages_refuse_a_codec_of_other_tokens(
    recipe: Path, pictures: Path, tmp_path: Path, resume: bool
) -> None:
    """Only the base stage changes how many tokens there are: found before minutes go into latents that do not fit."""
    start = train(read_recipe(recipe), [pictures], tmp_path / "start", stages=["base"])
    dim = checkpoint.load(start).config.dim
    recipe.write_text(re.sub(r"^dim = .*$", f"dim = {dim + 1}", RECIPE, flags=re.MULTILINE))
    message = f"base has dim {dim}, the recipe {dim + 1}; add --stage 0"
    for stage in ("shared", "specific", "decoder"):
        with pytest.raises(TrainingError, match=message):
            train(read_recipe(recipe), [pictures], tmp_path / "run", stages=[stage], init=start, resume=resume)
    assert resume or not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("groups = 4\nmemory = 2\n", "shuffle = 20\nturn = 0.5\n"),
        ("groups = 4\nmemory = 2\n", ""),
        ("groups = 4\nswitches = 2\n", 'start = "independent"\n'),
        ("groups = 2\n", "prior = 2.0\n"),
    ],
)
def test_a_run_cut_while_books_are_fitted_goes_on_where_it_was(
    recipe: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, options: str
) -> None:
    """Half an hour of iterations is not made twice, and the books are those of an unbroken run."""
    text = re.sub(r"^groups = .*\n", codec, RECIPE, flags=re.MULTILINE).replace("iterations = 2\n", "iterations = 4\n")
    recipe.write_text(text.replace("[specific]\n", "[specific]\n" + options))
    whole, part = tmp_path / "whole", tmp_path / "part"
    train(read_recipe(recipe), [pictures], whole, stages=["base"])
    shutil.copytree(whole, part)
    train(read_recipe(recipe), [pictures], whole, stages=["specific"], resume=True)
    assert not list(whole.glob("*.state"))
    real, seen = Run.save_state, []

    def cut(run: Run, stage: str, step: int, tensors: dict[str, torch.Tensor]) -> None:
        seen.append(stage)
        if len(seen) == 3:
            raise KeyboardInterrupt
        real(run, stage, step, tensors)

    monkeypatch.setattr(Run, "save_state", cut)
    with pytest.raises(KeyboardInterrupt):
        train(read_recipe(recipe), [pictures], part, stages=["specific"], resume=True)
    assert {stage.partition("-start-")[0] for stage in seen} == {"specific"}
    monkeypatch.undo()
    lines = len((part / "log.jsonl").read_text().splitlines())
    train(read_recipe(recipe), [pictures], part, stages=["specific"], resume=True)
    again = [json.loads(line) for line in (part / "log.jsonl").read_text().splitlines()[lines:]]
    assert all(record.get("iteration", record.get("group", 2)) + 2 * record.get("switch", 0) >= 2 for record in again)
    one, other = (load_file(run / "specific" / "model.safetensors") for run in (whole, part))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(part.glob("*.state"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[base_blocks]\ndecoder_bloks = [0, 0, 0]\n", r"^\[base_blocks\]: .*'decoder_bloks'; known: "),
        ("[base_blocks]\ndecoder_blocks = [9, 9, 9]\n", r"^\[base_blocks\]: .* blocks may only grow"),
        ("[base_blocks]\ndecoder_widths = [8, 8, 8]\n", r"^\[base_blocks\]: decoder: .* has shape \(8, "),
    ],
)
def test_base_blocks_that_cannot_grow_are_found_before_the_run(
    recipe: Path, pictures: Path, tmp_path: Path, more: str, message: str
) -> None:
    recipe.write_text(RECIPE + more)
    with pytest.raises(TrainingError, match=message):
        train(read_recipe(recipe), [pictures], tmp_path / "run", stages=["base"])
    assert not (tmp_path / "run").exists()


def test_a_log_that_was_cut_stops_nothing(recipe: Path, tmp_path: Path) -> None:
    Run(tmp_path / "run", read_recipe(recipe), resume=False).log(stage="base", step=20, loss=1.0)
    log = tmp_path / "run" / "log.jsonl"
    with log.open("ab") as file:
        file.write(b'{"time": 5, "stage": "ba\xff')
    run = Run(tmp_path / "run", read_recipe(recipe), resume=True)
    run.log(stage="base", step=40, loss=0.5)
    run.log(stage="base", step=60, loss=0.5)
    assert [record["step"] for record in curves.read_log(log)] == [20, 40, 60]
    assert len(log.read_bytes().splitlines()) == 4
    log.write_bytes(log.read_bytes() + b"7\n" + json.dumps({"step": 3}).encode())
    run.curves()
    assert (tmp_path / "run" / "curves.png").exists()


@pytest.mark.parametrize("rates", ["lr = 1e6", "router_lr = 1e30"])
def test_books_that_are_no_numbers_stop_the_stage(recipe: Path, pictures: Path, tmp_path: Path, rates: str) -> None:
    text = RECIPE.replace("[specific]", f'[specific]\nupdate = "gradient"\n{rates}').replace("steps = 6", "steps = 40")
    recipe.write_text(text)
    with pytest.raises(TrainingError, match=r"specific stage: .* is not finite at step \d+; the last good"):
        train(read_recipe(recipe), [pictures], tmp_path / "run", stages=["base", "specific"])
    assert not (tmp_path / "run" / "specific").exists()
    kept = load_file(tmp_path / "run" / "specific.state")
    assert all(torch.isfinite(tensor).all() for tensor in kept.values())


def test_a_state_that_is_no_number_is_not_kept(recipe: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", read_recipe(recipe), resume=False)
    run.save_state("base", 7, {"x": torch.ones(3)})
    with pytest.raises(TrainingError, match="base stage: x holds NaN or infinity at step 8; the last good"):
        run.save_state("base", 8, {"x": torch.full((3,), torch.nan)})
    assert run.load_state("base")[0] == 7


def test_a_disk_that_is_full_under_a_state(recipe: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", read_recipe(recipe), resume=False)
    run.save_state("base", 7, {"x": torch.ones(3)})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
            run.save_state("base", 8, {"x": torch.ones(3000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert run.load_state("base")[0] == 7


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_a_worker_is_one_line(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    faces = Faces([open_source(tmp_path)], 32, DataOptions(workers=workers))
    with pytest.raises(TrainingError) as caught:
        next(iter(loader(faces, 2, 0, 1, 0)))
    assert str(caught.value) == f"{tmp_path} holds no readable picture"


def test_a_base_stage_without_quantisation_has_books_in_the_end(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("quantize_after = 2", "quantize_after = 800"))
    model = checkpoint.load(train(read_recipe(recipe), [pictures], tmp_path / "run", stages=["base"]))
    images = torch.stack([torch.from_numpy(np.array(Image.open(p).resize((32, 32)))) for p in pictures.iterdir()])
    with torch.no_grad():
        latents = model.encode(images.permute(0, 3, 1, 2) / 255)
        error = model.codebooks(latents).error.mean()
    assert error < 0.5 * (latents - latents.mean(0)).square().sum((1, 2)).mean()  # random ones are worse than none


def test_a_batch_without_error_has_a_router_loss() -> None:
    losses = router_losses(torch.zeros(4, 2), torch.zeros(4, 2))
    assert all(torch.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.99])
def test_books_that_no_latent_falls_on_stay(decay: float) -> None:
    books = SwitchableCodebooks(Switching(2, 4, codes=4), 3)
    books.weight.data[1] += 100
    average, generator = BookAverage(books, decay), torch.Generator().manual_seed(0)
    first, latents, group = books.weight[1].clone(), torch.randn(32, 4, 3), torch.zeros(32, dtype=torch.long)
    with torch.no_grad():
        for _ in range(1200):  # 0.9 ** 1000 is 0 in float32
            average.update(latents, group, books.select_in(latents, group), generator)
    assert torch.equal(books.weight[1], first)
    assert torch.isfinite(books.weight).all()


def test_a_device_of_another_name(recipe: Path, tmp_path: Path) -> None:
    for name in ("tpu", "cuda:9", ""):
        with pytest.raises(TrainingError, match="is unknown; use auto, cpu or cuda"):
            open_fabric(name)
    command = [sys.executable, "-c", "from stcq.cli import run; run()", "train", recipe, "--device", "tpu"]
    command += ["--data", tmp_path, "--out", tmp_path / "run"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (11, "error: --device tpu is unknown; use auto, cpu or cuda\n")
