"""Percentiles, their intervals, ratios, drift and warm-up on series whose truth is known."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stcq.profiling.quantiles import Figure, drift, is_stable, median_over_turns, percentile, ratio, summary
from stcq.profiling.tables import times


def interleaving() -> Any:
    """benchmarks/interleave.py, a script's helper and no part of the package."""
    path = Path(__file__).parents[2] / "benchmarks" / "interleave.py"
    spec = importlib.util.spec_from_file_location("interleave", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("q", "true"), [(0.5, np.log(2)), (0.9, np.log(10)), (0.99, np.log(100))])
def test_intervals_cover_the_truth_as_often_as_they_say(q: float, true: float) -> None:
    rng = np.random.default_rng(1)
    figures = [percentile(np.sort(rng.exponential(size=800)), q) for _ in range(600)]
    covered = [f.low <= true <= f.high for f in figures if f.low is not None and f.high is not None]
    assert len(covered) == 600
    assert 0.92 <= np.mean(covered) <= 0.99


def test_a_short_series_bounds_no_tail() -> None:
    found = summary([3.0, 1.0, 2.0])
    assert (found["count"], found["max"], found["mean"]) == (3, 3.0, 2.0)
    assert found["p50"] == {"value": 2.0, "low": None, "high": None}
    many = summary(np.random.default_rng(0).normal(10, 1, 200).tolist())
    assert many["p50"]["low"] < many["p50"]["value"] < many["p50"]["high"]
    assert many["p99"]["high"] is None


def test_ratios_of_interleaved_series() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for seed in range(60):
        load = rng.gamma(20, 0.05, 40)  # what both series share in a round
        found = ratio(load * rng.normal(2, 0.02, 40), load * rng.normal(5, 0.05, 40), seed)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 2.5 <= found.high
    assert hits >= 52
    assert ratio([2.0] * 5, [5.0] * 5) == (2.5, 2.5, 2.5)


@pytest.mark.parametrize("rounds", [1, 4])
def test_few_rounds_bound_no_ratio(rounds: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert ratio([2.0] * rounds, [5.0] * rounds) == (2.5, None, None)
    assert times(ratio([2.0] * rounds, [5.0] * rounds).to_dict()) == "(2.50x, ? .. ?)"
    interleaving().table({"quick": [2.0] * rounds, "slow": [5.0] * rounds}, "slow")
    assert "2.50x of slow (? .. ?)" in capsys.readouterr().out


def test_drift() -> None:
    steady = np.random.default_rng(3).normal(10, 0.05, 100)
    assert drift(steady.tolist()) < 0.01
    assert drift((steady * np.linspace(1, 1.5, 100)).tolist()) > 0.2
    assert drift([1.0, 100.0]) is None


def test_equal_profiles_are_the_same_though_their_turns_differ() -> None:
    """Rounds of one turn share what the machine does then: 400 rounds of 20 turns are not 400 looks at it."""
    rng = np.random.default_rng(5)

    def measured() -> Figure:
        turns = 10 * (1 + 0.01 * rng.normal(size=20))[:, None] * (1 + 0.02 * rng.normal(size=(20, 20)))
        return median_over_turns(turns.ravel().tolist(), np.median(turns, 1).tolist())

    apart = 0
    for _ in range(200):
        one, other = measured(), measured()
        assert one.low is not None
        assert one.high is not None
        assert other.low is not None
        assert other.high is not None
        apart += one.high < other.low or other.high < one.low
    assert apart <= 8  # 60 with the intervals of order statistics
    assert median_over_turns([3.0, 1.0], [3.0, 1.0]) == (2.0, None, None)


def test_warming_up() -> None:
    falling = [100 / n for n in range(1, 11)]
    assert not is_stable(falling)
    assert is_stable([*falling, *[10.0] * 10])
    assert not is_stable([1.0] * 9)
