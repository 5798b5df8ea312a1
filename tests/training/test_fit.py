"""`stcq fit-codebooks` on an existing checkpoint."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from stcq.errors import TrainingError
from stcq.models import checkpoint
from stcq.models.config import CodecConfig
from stcq.training.cli import fit_codebooks
from stcq.training.fit import fit_checkpoint
from stcq.training.latents import check_enough
from stcq.training.options import BooksOptions, DataOptions

QUIET = DataOptions(workers=0)
SMALL = BooksOptions(limit=60, iterations=3, steps=10, batch=16)


@pytest.fixture
def pictures(tmp_path: Path, face: np.ndarray) -> Path:
    (tmp_path / "pictures").mkdir()
    for number in range(30):
        Image.fromarray(np.roll(face, number * 4, number % 2)).save(tmp_path / "pictures" / f"{number:02}.png")
    return tmp_path / "pictures"


@pytest.mark.parametrize("start", ["lloyd", "independent"])
@pytest.mark.parametrize(("groups", "codes", "books"), [(2, 7, "specific"), (1, 16, "specific"), (3, 11, "shared")])
def test_books_change_and_nothing_else(
    small_checkpoint: Path, pictures: Path, tmp_path: Path, groups: int, codes: int, books: str, start: str
) -> None:
    old = checkpoint.load(small_checkpoint)
    out = fit_checkpoint(
        small_checkpoint,
        [pictures],
        tmp_path / "new",
        groups=groups,
        codes=codes,
        books=books,
        data=QUIET,
        options=dataclasses.replace(SMALL, start=start),
    )
    new = checkpoint.load(out)
    assert (new.config.groups, new.config.codes, new.config.books) == (groups, codes, books)
    for name in ("encoder", "decoder"):
        for a, b in zip(getattr(old, name).parameters(), getattr(new, name).parameters(), strict=True):
            assert torch.equal(a, b)
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(p).resize((32, 32)))) for p in sorted(pictures.iterdir())]
    )
    latents = new.encode(images.permute(0, 3, 1, 2) / 255)
    assert new.codebooks(latents).error.mean() < old.codebooks(latents).error.mean()
    assert torch.equal(new.codebooks.weight, new.codebooks.weight.half().float())
    assert checkpoint.read_config(out)[1]["fit_codebooks"]["images"] == ["pictures"]


@pytest.mark.parametrize("start", ["lloyd", "independent"])
def test_switches_fit_better_than_as_many_sets(
    small_checkpoint: Path, pictures: Path, tmp_path: Path, start: str
) -> None:
    errors = {}
    for groups, switches in ((2, 1), (16, 4)):
        out = tmp_path / f"{groups}"
        options = dataclasses.replace(SMALL, start=start)
        sizes = {"groups": groups, "codes": 5, "switches": switches, "data": QUIET, "options": options}
        new = checkpoint.load(fit_checkpoint(small_checkpoint, [pictures], out, **sizes))
        assert (new.config.groups, new.config.switches, len(new.codebooks.weight)) == (groups, switches, 2)
        images = [torch.from_numpy(np.array(Image.open(p).resize((32, 32)))) for p in sorted(pictures.iterdir())]
        latents = new.encode(torch.stack(images).permute(0, 3, 1, 2) / 255)
        errors[switches] = float(new.codebooks(latents).error.mean().detach())
    assert errors[4] < errors[1]


def test_a_memory_fits_better_than_as_many_sets(small_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    errors = {}
    images = [torch.from_numpy(np.array(Image.open(p).resize((32, 32)))) for p in sorted(pictures.iterdir())]
    for groups, memory in ((2, 0), (16, 4)):
        sizes = {"groups": groups, "codes": 4, "memory": memory, "data": QUIET, "options": SMALL}
        new = checkpoint.load(fit_checkpoint(small_checkpoint, [pictures], tmp_path / f"{groups}", **sizes))
        assert (new.config.groups, new.config.memory, len(new.codebooks.weight)) == (groups, memory, 2)
        latents = new.encode(torch.stack(images).permute(0, 3, 1, 2) / 255)
        errors[memory] = float(new.codebooks(latents).error.mean().detach())
    assert errors[4] < errors[0]


MORE = {
    "switches": 1,
    "memory": 2,
    "memory-sets": 3,
    "memory-weights": "1,2",
    "shuffle": 20,
    "turn": 0.5,
    "router-steps": 0,
}


@pytest.mark.parametrize("ways", [{"switches": 2, "memory": 0}, {"switches": 1, "memory": 2}, MORE])
def test_the_command(small_checkpoint: Path, pictures: Path, tmp_path: Path, ways: dict[str, Any]) -> None:
    command = [sys.executable, "-c", "from stcq.cli import run; run()", "fit-codebooks", small_checkpoint]
    command += ["--images", pictures, "--groups", "4", "--codes", "6", "--iterations", "2", "--router-steps", "50"]
    command += [part for name, value in ways.items() for part in (f"--{name}", str(value))]
    result = subprocess.run([*map(str, command), "-o", str(tmp_path / "new")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    config = checkpoint.load(tmp_path / "new").config
    assert (config.codes, config.groups, config.switches, config.memory) == (6, 4, ways["switches"], ways["memory"])
    assert (config.memory_sets, config.memory_weights) == ((3, (1, 2)) if ways is MORE else (0, ()))


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    command = [
        "fit-codebooks",
        "nowhere",
        "--images",
        "none",
        "--groups",
        "4",
        "--codes",
        "4",
        "-o",
        str(tmp_path / "o"),
    ]
    result = CliRunner().invoke(fit_codebooks, [*command[1:], "--memory", "2", "--memory-weights", "1,x"])
    assert result.exit_code == 2
    assert "'1,x' are no whole numbers with commas between them, like 1,2,1,3" in result.output


@pytest.mark.parametrize("crop", ["0", "-1", "1.5", "nan"])
def test_a_crop_that_is_no_fraction(tmp_path: Path, crop: str) -> None:
    command = ["nowhere", "--images", "none", "--groups", "4", "--codes", "4", "-o", str(tmp_path / "o")]
    result = CliRunner().invoke(fit_codebooks, [*command, "--crop", crop])
    assert result.exit_code == 2
    assert "is no fraction; give a number above 0, up to 1" in result.output


def test_what_cannot_work_is_said_before_any_work(small_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="60 pictures cannot fill 4 groups of 16"):
        fit_checkpoint(small_checkpoint, [pictures], tmp_path / "new", groups=4, codes=16, data=QUIET)
    with pytest.raises(TrainingError, match="itself"):
        fit_checkpoint(small_checkpoint, [pictures], small_checkpoint, groups=1, codes=2, data=QUIET)
    for options in ({"shuffle": 20}, {"turn": 0.5}):
        wrong = dataclasses.replace(SMALL, **options)
        with pytest.raises(TrainingError, match="--shuffle needs a --memory, and --turn a --shuffle"):
            fit_checkpoint(small_checkpoint, [pictures], tmp_path / "new", groups=1, codes=2, options=wrong)
    with pytest.raises(TrainingError, match=r"shuffle -1, turn 0\.0; use 0"):
        dataclasses.replace(SMALL, shuffle=-1)
    assert not (tmp_path / "new").exists()


def test_a_trial_with_fewer_pictures_than_codewords(small_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    sizes = {"groups": 4, "codes": 40, "data": QUIET, "options": SMALL}
    out = fit_checkpoint(small_checkpoint, [pictures], tmp_path / "new", allow_repeats=True, **sizes)
    weight = checkpoint.load(out).codebooks.weight
    assert weight.shape == (4, 8, 40, 3)
    assert torch.isfinite(weight).all()


def test_more_than_memory_holds_is_refused(small_checkpoint: Path, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"GB of books need more memory .* use fewer groups"):
        fit_checkpoint(
            small_checkpoint,
            [pictures],
            tmp_path / "new",
            groups=10**7,
            codes=10**4,
            data=QUIET,
            options=SMALL,
            allow_repeats=True,
        )
    with pytest.raises(TrainingError, match=r"keep \d+ latents or fewer \(--limit\)"):
        check_enough(10**11, CodecConfig())
    many = CodecConfig(groups=40, codes=16)
    with pytest.raises(TrainingError, match="600 pictures cannot fill 40 groups"):
        check_enough(600, many)
    check_enough(600, many, start="independent")  # every group has all of them
    with pytest.raises(TrainingError, match="15 pictures cannot fill 1 groups"):
        check_enough(15, many, start="independent")
