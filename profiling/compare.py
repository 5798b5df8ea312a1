"""Two profiles side by side: what became faster, slower, or cannot be told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import StcqError

FAMILY = "stcq-profile/"
MAJOR = "1"


def read(path: Path) -> dict[str, Any]:
    """A profile that `stcq profile --json` wrote.

    Raises:
        StcqError: missing, no JSON, no profile, or of a newer stcq.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StcqError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StcqError(f"{path} is no JSON ({error}); give a file that `stcq profile --json` wrote") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(schema, str) or not schema.startswith(FAMILY):
        raise StcqError(f"{path} is no profile; give a file that `stcq profile --json` wrote")
    if schema != FAMILY + MAJOR:
        raise StcqError(f"{path} has the schema {schema}, this stcq reads {FAMILY}{MAJOR}: upgrade stcq")
    return dict(document)


def compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Compare the runs that two profiles have in common (variant, threads, batch), stage by stage.

    Returns:
        "warnings"; "rows": "run", "stage", "first_ms" and "second_ms" (medians), "times_faster" = first / second,
        "verdict": "faster" or "slower" when the medians' intervals do not overlap, else "same"; "only_in_first",
        "only_in_second".

    Raises:
        StcqError: a profile lacks what every profile has, or they have no run in common.
    """
    try:
        return _compare(first, second)
    except (KeyError, TypeError, AttributeError) as error:
        raise StcqError(f"a profile is damaged ({type(error).__name__}: {error}); measure it again") from error


def _compare(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    mine, theirs = ({run["run"]: run for run in document["runs"]} for document in (first, second))
    rows = []
    for name in [name for name in mine if name in theirs]:
        before, after = (
            {entry["stage"]: entry["p50"] for entry in run["stages"]} for run in (mine[name], theirs[name])
        )
        rows += [_row(name, stage, before[stage], after[stage]) for stage in before if stage in after]
    if not rows:
        raise StcqError(f"the profiles have no run in common: {', '.join(mine)} and {', '.join(theirs)}")
    return {
        "rows": rows,
        "warnings": _warnings(first, second),
        "only_in_first": sorted(set(mine) - set(theirs)),
        "only_in_second": sorted(set(theirs) - set(mine)),
    }


def _row(run: str, stage: str, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """One stage's comparison; an interval that is open at an end reaches over everything there."""
    verdict = "same"
    if after["high"] is not None and before["low"] is not None and after["high"] < before["low"]:
        verdict = "faster"
    elif before["high"] is not None and after["low"] is not None and before["high"] < after["low"]:
        verdict = "slower"
    faster = before["value"] / after["value"] if after["value"] else None
    figures = {"first_ms": before["value"], "second_ms": after["value"], "times_faster": faster}
    return {"run": run, "stage": stage, **figures, "verdict": verdict}


def _warnings(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """What makes the comparison doubtful."""
    found = [
        f"the {word} profile is from a noisy machine"
        for word, d in (("first", first), ("second", second))
        if d["noisy"]
    ]
    for what in ("cpu", "cpus", "board", "python"):
        a, b = first["machine"].get(what), second["machine"].get(what)
        if a != b:
            found.append(f"the machines differ in {what}: {a} and {b}")
    policies = [document["bundle"].get("policy") for document in (first, second)]
    if policies[0] != policies[1]:
        found.append(f"groups were chosen by other policies: {policies[0]} and {policies[1]}")
    arithmetic = [{run["run"]: run.get("computes_in") for run in document["runs"]} for document in (first, second)]
    for run in [run for run in arithmetic[0] if run in arithmetic[1]]:
        a, b = arithmetic[0][run], arithmetic[1][run]
        if a != b:
            found.append(f"{run} computes in {a} and {b}")
    if first["bundle"]["digest"] != second["bundle"]["digest"]:
        found.append("the bundles are different models")
    if first["settings"]["picture_bytes"] != second["settings"]["picture_bytes"]:
        found.append("different pictures were encoded")
    return found
