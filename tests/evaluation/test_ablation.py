"""`stcq ablate` on a small codec: the rows, their bits and their order."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from stcq.errors import CheckpointError, TrainingError
from stcq.evaluation.ablation import ablate, save, table
from stcq.models import checkpoint


@pytest.fixture(scope="module")
def others(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the pictures to measure on are: somewhere else."""
    return shutil.copytree(people, tmp_path_factory.mktemp("others") / "people")


def test_rows_of_the_table(
    small_checkpoint: Path, people: Path, others: Path, recognizer: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    rows = ablate(
        small_checkpoint, [people], others, recognizer, codes=4, groups=4, limit=120, router_steps=100, workers=0
    )
    assert [(r.row, r.groups, r.bits) for r in rows] == [
        ("a", 1, 16),
        ("b", 4, 18),
        ("c", 1, 16),
        ("d", 4, 18),
        ("e", 4, 18),
    ]
    error = {r.row: r.error.value for r in rows}
    assert error["c"] < error["a"]
    assert error["d"] < error["b"] < error["a"]
    assert error["d"] <= error["e"]  # nn is the least-error group of each picture
    assert [r.gain is None for r in rows] == [True, False, False, False, False]
    by_row = {r.row: r for r in rows}
    assert by_row["d"].gain is not None
    assert by_row["d"].gain.value == pytest.approx(by_row["d"].ids.value - by_row["a"].ids.value)
    assert len(table(rows).splitlines()) == 7
    sizes: dict[str, Any] = {"codes": 4, "groups": 4, "limit": 120, "router_steps": 0, "workers": 0}
    for way in ({"switches": 2}, {"memory": 2}, {"memory": 2, "memory_sets": 3, "memory_weights": (1, 2)}):
        switched = ablate(small_checkpoint, [people], others, recognizer, **sizes, **way)
        assert [(r.row, r.groups, r.bits) for r in switched] == [(r.row, r.groups, r.bits) for r in rows]
        assert {r.row: r.error.value for r in switched}["d"] < error["c"]
    save(rows, tmp_path / "rows.json")
    assert json.loads((tmp_path / "rows.json").read_text())[3]["bits"] == 18


def test_ways_that_are_given_replace_the_checkpoints(
    small_checkpoint: Path, people: Path, others: Path, recognizer: Path, tmp_path: Path
) -> None:
    """A codec with a memory can be asked for switches, or for another memory, without naming all that it has."""
    model = checkpoint.load(small_checkpoint)
    ways = {"groups": 16, "codes": 4, "memory": 2, "memory_sets": 3, "memory_weights": (1, 2)}
    model.set_books(dataclasses.replace(model.config.apart(16), **ways))
    checkpoint.save(model, tmp_path / "memory")
    sizes: dict[str, Any] = {"limit": 60, "test_limit": 4, "router_steps": 0, "workers": 0}
    for asked in ({}, {"switches": 2}, {"memory": 4}):
        rows = ablate(tmp_path / "memory", [people], others, recognizer, **asked, **sizes)
        assert {r.row: r.groups for r in rows}["d"] == 16
    with pytest.raises(CheckpointError, match="not both"):
        ablate(tmp_path / "memory", [people], others, recognizer, switches=2, memory=2, limit=60, workers=0)


def test_the_command_and_too_few_pictures(small_checkpoint: Path, people: Path, others: Path, recognizer: Path) -> None:
    for shared in (people, people / "p0"):
        with pytest.raises(TrainingError, match="share pictures; measure on other people's"):
            ablate(small_checkpoint, [others, shared], people, recognizer)
    with pytest.raises(TrainingError, match="cannot fill"):
        ablate(small_checkpoint, [people], others, recognizer, codes=4096, workers=0)
    command = [sys.executable, "-c", "from stcq.cli import run; run()", "ablate", small_checkpoint]
    options = [
        "--train-images",
        people,
        "--images",
        others,
        "--recognizer",
        recognizer,
        "--codes",
        "2",
        "--limit",
        "40",
        "--router-steps",
        "10",
        "--start",
        "independent",
    ]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=True)
    assert "| (e) | the same with the router |" in done.stdout
