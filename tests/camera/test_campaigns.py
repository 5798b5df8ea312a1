"""The reliability campaigns of docs/reliability.md, small: the whole ones are scripts in benchmarks/."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def run(script: str, *arguments: str) -> dict:
    result = subprocess.run(
        [sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_killed_at_random_nothing_is_lost_or_stored_twice() -> None:
    figures = run("kill_loop.py", "--kills", "5", "--seed", "3")
    assert figures["accepted"] > 0
    assert figures["lost"] == figures["twice"] == figures["out_of_order"] == 0


def test_an_outage_is_replayed_in_order() -> None:
    figures = run("outage_replay.py", "--faces", "3000")
    assert figures["lost"] == figures["twice"] == figures["out_of_order"] == 0
    assert figures["commits_per_face"] < 0.1
    assert figures["bytes_sent_per_face"] < 81


def test_mutated_packets_and_batches_raise_typed_errors() -> None:
    figures = run("mutate.py", "--cases", "10000", "--seed", "7")
    assert figures["untyped"] == 0
    assert figures["peak_bytes"] <= 1 << 20
    assert {"Corrupt", "CutBatch", "WrongModel", "UnsupportedVersion"} <= set(figures["outcomes"])
