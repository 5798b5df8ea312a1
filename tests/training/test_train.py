"""Training end to end on a handful of pictures: stages, resuming after kill -9, and clear refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from stcq.errors import StcqError, TrainingError
from stcq.export.export import export
from stcq.models import checkpoint
from stcq.runtime.codec import Codec
from stcq.runtime.verify import verify
from stcq.training.engine import pick_device
from stcq.training.recipe import read_recipe
from stcq.training.run import Run
from stcq.training.train import STAGES, train
from tiny_recipe import TINY

RECIPE = f"""
seed = 3
{TINY}
[base]
steps = 12
batch = 4
warmup = 2
quantize_after = 4
checkpoint = 3
validate = 6
[shared]
limit = 40
iterations = 3
steps = 20
batch = 16
[specific]
limit = 40
start = "copy"
update = "gradient"
steps = 20
batch = 16
revive = 8
checkpoint = 5
[decoder]
steps = 6
batch = 4
warmup = 1
checkpoint = 2
initial = 0.25
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=["edge", "eigen"])
def backbone(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def use(recipe: Path, backbone: str) -> None:
    recipe.write_text(RECIPE.replace("[codec]", f'[codec]\nbackbone = "{backbone}"'))


@pytest.fixture
def pictures(tmp_path: Path, face: np.ndarray) -> Path:
    folder = tmp_path / "pictures" / "someone"
    folder.mkdir(parents=True)
    for number in range(24):
        Image.fromarray(np.roll(face, number * 3, number % 2)).save(folder / f"{number:02}.png")
    return folder.parent


def same(one: Path, other: Path) -> bool:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_all_stages_and_an_export(recipe: Path, backbone: str, pictures: Path, tmp_path: Path) -> None:
    use(recipe, backbone)
    last = train(read_recipe(recipe), [pictures], tmp_path / "run", validation=pictures)
    assert last == tmp_path / "run" / "decoder"
    base, shared, books, decoder = (checkpoint.load(tmp_path / "run" / stage) for stage in STAGES)
    assert (base.config.groups, shared.config.groups, books.config.groups) == (1, 2, 2)
    assert (shared.config.books, books.config.books) == ("shared", "specific")
    assert shared.codebooks.weight.shape == (2, 1, 6, 3)
    assert not torch.equal(shared.codebooks.full(), books.codebooks.weight)
    for frozen in ("encoder", "codebooks", "router"):
        for a, b in zip(getattr(books, frozen).parameters(), getattr(decoder, frozen).parameters(), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(books.decoder.stem[0].weight, decoder.decoder.stem[0].weight)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"psnr", "quantization"} <= next(r for r in log if r.get("step") == 12)["validation"].keys()
    with Image.open(tmp_path / "run" / "base.png") as grid:
        assert grid.width == 12 * 32
    with Image.open(tmp_path / "run" / "curves.png") as curves:
        assert curves.width == 1200
    with Codec.load(export(last, tmp_path / "bundle").bundle) as codec:
        assert verify(codec).passed


@pytest.mark.parametrize("way", ["switches", "memory"])
def test_all_stages_with_switches_or_memory(recipe: Path, pictures: Path, tmp_path: Path, way: str) -> None:
    """The shared stage has as many books as there are sets to choose among, and the specific one starts from them."""
    text = recipe.read_text().replace("groups = 2", f"groups = 4\n{way} = 2").replace("steps = 20", "steps = 4")
    recipe.write_text(text)
    train(read_recipe(recipe), [pictures], tmp_path / "run")
    base, shared, books, decoder = (checkpoint.load(tmp_path / "run" / stage).config for stage in STAGES)
    found = [(c.groups, max(c.switches, c.memory)) for c in (base, shared, books, decoder)]
    assert found == [(1, 1), (2, 1), (4, 2), (4, 2)]


def test_a_killed_run_resumes_to_the_same_weights(recipe: Path, backbone: str, pictures: Path, tmp_path: Path) -> None:
    use(recipe, backbone)
    train(read_recipe(recipe), [pictures], tmp_path / "whole")
    command = [
        sys.executable,
        "-c",
        "from stcq.cli import run; run()",
        "train",
        recipe,
        "--data",
        pictures,
        "--out",
        tmp_path / "cut",
        "--threads",
        "1",
    ]
    states = set()
    for stage in ("base", "specific", "decoder"):
        process = subprocess.Popen([*command, "--resume"], stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while (
            not (tmp_path / "cut" / f"{stage}.state").exists()
            and process.poll() is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        states |= {path.name for path in (tmp_path / "cut").glob("*.state")}
    subprocess.run([*command, "--resume"], check=True, stdout=subprocess.DEVNULL)
    assert states
    for stage in STAGES:
        assert same(tmp_path / "whole" / stage, tmp_path / "cut" / stage)
    assert not list((tmp_path / "cut").glob("*.state"))


def test_the_same_seed_gives_the_same_weights_and_another_does_not(
    recipe: Path, pictures: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        train(read_recipe(recipe), [pictures], tmp_path / name, stages=["base"])
    recipe.write_text(RECIPE.replace("seed = 3", "seed = 4"))
    train(read_recipe(recipe), [pictures], tmp_path / "c", stages=["base"])
    assert same(tmp_path / "a" / "base", tmp_path / "b" / "base")
    assert not same(tmp_path / "a" / "base", tmp_path / "c" / "base")


def test_resident_pictures_go_through_all_stages(recipe: Path, backbone: str, pictures: Path, tmp_path: Path) -> None:
    use(recipe, backbone)
    last = train(read_recipe(recipe), [pictures], tmp_path / "run", validation=pictures, resident=True)
    again = train(read_recipe(recipe), [pictures], tmp_path / "again", validation=pictures, resident=True)
    assert last.name == "decoder"
    assert same(last, again)


def test_a_share_of_the_first_decoder_stays(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    found = {}
    for share in (0.0, 0.25, 1.0):
        recipe.write_text(RECIPE.replace("initial = 0.25", f"initial = {share}"))
        last = train(read_recipe(recipe), [pictures], tmp_path / str(share))
        found[share] = load_file(last / "model.safetensors")
    first = load_file(tmp_path / "0.0" / "specific" / "model.safetensors")
    learnt = [name for name in first if name.startswith("decoder.") and not torch.equal(found[0.0][name], first[name])]
    assert learnt
    for name in first:
        assert torch.equal(found[1.0][name], first[name])
        expected = 0.75 * found[0.0][name] + 0.25 * first[name] if name in learnt else first[name]
        torch.testing.assert_close(found[0.25][name], expected)


def test_zips_and_an_unreadable_picture(
    recipe: Path, pictures: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (pictures / "someone" / "05.png").write_bytes(b"not a picture")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for path in pictures.rglob("*.png"):
            archive.write(path, path.name)
    recipe.write_text(RECIPE.replace("steps = 12", "steps = 60").replace("quantize_after = 4", "quantize_after = 99"))
    train(read_recipe(recipe), [tmp_path / "faces.zip"], tmp_path / "run", stages=["base"])
    messages = capfd.readouterr().err
    assert messages.count("05.png") == 1
    assert "1 unreadable pictures skipped" in messages
    assert "05.png" in (tmp_path / "run" / "unreadable.txt").read_text()


def test_weights_for_two_sources_and_validation(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("workers = 0", "workers = 0\nweights = [0.5, 0.5]"))
    train(read_recipe(recipe), [pictures, pictures], tmp_path / "run", validation=pictures, stages=["base"])
    assert "validation" in (tmp_path / "run" / "log.jsonl").read_text()


def test_a_finished_or_foreign_run_is_not_overwritten(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    loaded = read_recipe(recipe)
    train(loaded, [pictures], tmp_path / "run", stages=["base"])
    with pytest.raises(TrainingError, match="--resume"):
        train(loaded, [pictures], tmp_path / "run")
    recipe.write_text(RECIPE.replace("seed = 3", "seed = 4"))
    with pytest.raises(TrainingError, match="another recipe"):
        train(read_recipe(recipe), [pictures], tmp_path / "run", resume=True)


def test_too_few_pictures_for_the_books(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("codes = 6", "codes = 64"))
    with pytest.raises(TrainingError, match="cannot fill 2 groups of 64"):
        train(read_recipe(recipe), [pictures], tmp_path / "run")
    assert not (tmp_path / "run").exists()  # before anything was trained


def test_a_nan_loss_stops_and_keeps_the_last_state(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    recipe.write_text(RECIPE.replace("warmup = 2", "warmup = 2\nlr = 1e30"))
    with pytest.raises(TrainingError, match="step"):
        train(read_recipe(recipe), [pictures], tmp_path / "run")
    assert not (tmp_path / "run" / "base").exists()


def test_a_damaged_state_is_named(recipe: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run", read_recipe(recipe), resume=False)
    run.save_state("base", 7, {"x": torch.ones(3)})
    step, tensors = run.load_state("base")
    assert (step, tensors["x"].tolist()) == (7, [1, 1, 1])
    path = tmp_path / "run" / "base.state"
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(TrainingError, match="damaged"):
        run.load_state("base")


def test_a_full_disk_keeps_the_old_state(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run", read_recipe(recipe), resume=False)
    run.save_state("base", 7, {"x": torch.ones(3)})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        run.save_state("base", 8, {"x": torch.zeros(3)})
    assert run.load_state("base")[0] == 7
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["base.state", "recipe.json"]


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        assert pick_device("auto").type == "cpu"
        with pytest.raises(TrainingError, match="no GPU"):
            pick_device("cuda")


def test_bfloat16_autocast_trains(
    recipe: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stcq.training.engine.has_fast_bfloat16", lambda device: True)
    last = train(read_recipe(recipe), [pictures], tmp_path / "run", validation=pictures)
    assert all(tensor.dtype != torch.bfloat16 for tensor in load_file(last / "model.safetensors").values())


@pytest.mark.parametrize("what", ["weights", "recognizers", "validation", "init"])
def test_bad_material_leaves_no_run_directory(recipe: Path, pictures: Path, tmp_path: Path, what: str) -> None:
    missing = tmp_path / "missing"
    options: dict = {} if what == "weights" else {what: [missing] if what == "recognizers" else missing}
    if what == "weights":
        recipe.write_text(RECIPE.replace("workers = 0", "workers = 0\nweights = [0.5, 0.5]"))
    with pytest.raises(StcqError, match="2 numbers for 1 data" if what == "weights" else "missing"):
        train(read_recipe(recipe), [pictures], tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
