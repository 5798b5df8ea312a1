"""A measured run and its entry in the document."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..runtime.bundle import Bundle
from ..runtime.manifest import Variant
from .process import WorkerProcess
from .quantiles import drift, median_over_turns, ratio, summary

TOTALS = ("encode", "decode")


@dataclass
class Run:
    """One variant, number of threads and batch, while it is measured.

    Attributes:
        times: stage -> milliseconds of each round; medians: stage -> the median of each turn.
    """

    name: str
    variant: Variant
    threads: int
    batch: int
    worker: WorkerProcess
    opened: dict[str, Any]
    warm_up: dict[str, Any] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    medians: dict[str, list[float]] = field(default_factory=dict)


def comparison(run: Run, baseline: Run) -> dict[str, Any]:
    """How much faster a run is than the first one, per face, by stage; medians of the same turns are compared."""
    stages = {
        stage: ratio(
            [value / run.batch for value in medians], [value / baseline.batch for value in baseline.medians[stage]]
        ).to_dict()
        for stage, medians in run.medians.items()
        if stage in baseline.medians
    }
    return {"run": run.name, "baseline": baseline.name, "times_faster": stages}


def record(run: Run, bundle: Bundle, cold: Sequence[float] | None, policy: str) -> dict[str, Any]:
    """A run's entry in the document; times are milliseconds for the whole batch."""
    files, graphs = bundle.manifest.files, run.variant.graphs
    exact = ("tokenizer",) if "tokenizer" in graphs else ("encoder", "quantizer")
    encoding = exact if policy == "nn" else ("encoder", "router")
    needed = {file for name in encoding for file in graphs.get(name, ())}
    totals = [name for name in TOTALS if name in run.times]
    drifts = [found for name in totals if (found := drift(run.medians[name])) is not None]
    described = [entry | _summary(run, entry["stage"]) for entry in run.opened["stages"]]
    median = {entry["stage"]: entry["p50"]["value"] for entry in described}
    return {
        "run": run.name,
        "variant": run.variant.name,
        "backend": run.variant.backend,
        "precision": run.variant.precision,
        "computes_in": run.opened["precision"],
        "threads": run.threads,
        "batch": run.batch,
        "warm_up": run.warm_up,
        "stages": described,
        "faces_per_second": {name: 1e3 * run.batch / median[name] for name in totals},
        "drift": max(drifts, default=None),
        "cold_start_ms": _spread(cold),
        "open_ms": {name: round(value * 1e3, 1) for name, value in run.opened["seconds"].items()},
        "memory": run.opened["memory"],
        "model_bytes": {"all": bundle.size_of(run.variant), "encode": sum(files[name].size for name in needed)},
    }


def _summary(run: Run, stage: str) -> dict[str, Any]:
    """A stage's percentiles, the median's interval over turns."""
    return summary(run.times[stage]) | {"p50": median_over_turns(run.times[stage], run.medians[stage]).to_dict()}


def _spread(seconds: Sequence[float] | None) -> dict[str, Any]:
    """Median and range of cold starts in milliseconds."""
    ordered = sorted(value * 1e3 for value in seconds or ())
    if not ordered:
        return {"count": 0, "median": None, "least": None, "most": None}
    return {"count": len(ordered), "median": statistics.median(ordered), "least": ordered[0], "most": ordered[-1]}
