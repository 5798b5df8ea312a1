"""Measuring a bundle: which runs, in which order, and the document that comes out (docs/profile.md)."""

from __future__ import annotations

import base64
import contextlib
import datetime
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import BundleError, StcqError
from ..runtime.backends import is_installed
from ..runtime.bundle import Bundle
from ..runtime.graphs import available_cpus
from ..runtime.machine import machine
from ..runtime.manifest import Variant
from .load import disturbances, load_average, load_between, moment
from .pictures import example
from .process import WorkerProcess, cold_start
from .run import Run, comparison, record
from .sensors import limits, sensors
from .stages import KINDS

SCHEMA = "stcq-profile/1"
TURN = 0.25  # seconds that a run measures before the next one's turn
WARM_UP = 5.0  # most seconds of warming up
DRIFT = 0.05
Progress = Callable[[str], object]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        variants: names; () = every variant whose backend is installed.
        backends: only these; () = all.
        threads: CPU threads; each number is a run of its own.
        batches: faces at a time; each is a run of its own.
        kinds: "encode", "decode" or both.
        policy: "nn" or "router"; None = the bundle's.
        seconds: measuring time of each run, warm-up apart.
        cold: fresh processes for the cold start of each variant; 0 = none.
    """

    variants: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    kinds: tuple[str, ...] = KINDS
    policy: str | None = None
    seconds: float = 5.0
    cold: int = 3


def profile(
    path: Path, plan: Plan, picture: bytes | None = None, progress: Progress = lambda text: None
) -> dict[str, Any]:
    """Measure a bundle.

    Args:
        path: the bundle's folder or zip.
        plan: what to measure.
        picture: the content of a picture file to encode; None = the example face.
        progress: called with a line about what happens now.

    Returns:
        The document that docs/profile.md describes, ready for JSON.

    Raises:
        BundleError: it is no bundle, or has none of the variants.
        StcqError: no run could be measured; the message says why the first one failed.
    """
    bundle = Bundle(path)
    try:
        return _profile(bundle, plan, example() if picture is None else picture, progress)
    finally:
        bundle.close()


def choose(bundle: Bundle, plan: Plan) -> list[Variant]:
    """The variants of a plan.

    Raises:
        BundleError: there is none, or a named one is missing.
        BackendError: a backend's name is unknown.
    """
    named = [bundle.variant(name) for name in plan.variants]
    found = named or [variant for variant in bundle.manifest.variants if is_installed(variant.backend)]
    found = [variant for variant in found if not plan.backends or variant.backend in plan.backends]
    if not found:
        has = ", ".join(f"{v.name} ({v.backend})" for v in bundle.manifest.variants)
        raise BundleError(f"{bundle.source} has no such variant that runs here; it has: {has}")
    return found


def _profile(bundle: Bundle, plan: Plan, picture: bytes, progress: Progress) -> dict[str, Any]:
    before, policy = sensors(), plan.policy or bundle.manifest.policy
    failed: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        runs = _open(bundle, plan, policy, picture, stack, failed, progress)
        if not runs:
            raise StcqError(f"nothing could be measured: {failed[0]['error']}")
        load = measure(runs, plan.seconds, progress)
    cold = _cold_starts(bundle, plan, policy, picture, runs, progress)
    after = sensors()
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "bundle": {"name": bundle.manifest.name, "digest": bundle.manifest.codec.digest.hex(), "policy": policy},
        "settings": {"seconds": plan.seconds, "turn_seconds": TURN, "picture_bytes": len(picture)},
        "machine": machine() | {"load_average": load_average()},
        "sensors": {"before": before, "after": after},
        "load": load,
        "runs": [record(run, bundle, cold.get((run.variant.name, run.threads)), policy) for run in runs],
        "failed": failed,
        "comparison": [comparison(run, runs[0]) for run in runs[1:]],
    }
    shaking = [
        f"{r['run']}: the median moved by {r['drift']:.0%} while measuring"
        for r in document["runs"]
        if r["drift"] is not None and r["drift"] > DRIFT
    ]
    short = [
        f"{r['run']}: too short to tell whether the machine was steady" for r in document["runs"] if r["drift"] is None
    ]
    noise = disturbances(load) + shaking
    return document | {"noisy": bool(noise), "warnings": noise + short + crowded(plan.threads) + limits(before, after)}


def crowded(threads: Sequence[int]) -> list[str]:
    """A sentence about threads that wait for each other, where there are more than CPUs; empty = there are not."""
    cpus = available_cpus()
    found = ", ".join(str(number) for number in threads if number > cpus)
    return [f"{found} threads share the {cpus} CPUs that this process may use"] if found else []


def measure(runs: Sequence[Run], seconds: float, progress: Progress) -> dict[str, Any]:
    """Warm every run up, then let them measure in turns until each has had its seconds; the load meanwhile."""
    for run in runs:
        progress(f"warming up {run.name}")
        run.warm_up = run.worker.ask("warm_up", batch=run.batch, seconds=WARM_UP)
    first, own, start = moment(), 0.0, time.process_time()
    turns = max(1, round(seconds / TURN))
    for turn in range(turns):
        progress(f"turn {turn + 1} of {turns}")
        for run in runs if turn % 2 == 0 else reversed(runs):
            reply = run.worker.ask("turn", batch=run.batch, seconds=TURN)
            own += reply["cpu"]
            for stage, times in reply["times"].items():
                run.times.setdefault(stage, []).extend(times)
                run.medians.setdefault(stage, []).append(statistics.median(times))
    return load_between(first, moment(), own + time.process_time() - start)


def _open(
    bundle: Bundle,
    plan: Plan,
    policy: str,
    picture: bytes,
    stack: contextlib.ExitStack,
    failed: list[dict[str, Any]],
    progress: Progress,
) -> list[Run]:
    """Start a worker for each variant and number of threads; those that fail are noted."""
    runs = []
    for variant, threads in itertools.product(choose(bundle, plan), plan.threads):
        progress(f"opening {variant.name} on {threads} threads")
        worker = stack.enter_context(WorkerProcess())
        try:
            opened = worker.ask(
                "open",
                bundle=str(bundle.path),
                variant=variant.name,
                backend=variant.backend,
                policy=policy,
                threads=threads,
                picture=base64.b64encode(picture).decode(),
                batches=plan.batches,
                kinds=plan.kinds,
            )
        except StcqError as error:
            failed.append({"variant": variant.name, "threads": threads, "error": str(error)})
            continue
        for batch in plan.batches:
            name = f"{variant.name} t{threads} b{batch}"
            runs.append(Run(name, variant, threads, batch, worker, opened))
    return runs


def _cold_starts(
    bundle: Bundle, plan: Plan, policy: str, picture: bytes, runs: Sequence[Run], progress: Progress
) -> dict[tuple[str, int], list[float]]:
    """Seconds of fresh `stcq encode` processes by (variant, threads), in turns."""
    found: dict[tuple[str, int], list[float]] = {(run.variant.name, run.threads): [] for run in runs}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "face"
        file.write_bytes(picture)
        for number in range(plan.cold):
            progress(f"cold start {number + 1} of {plan.cold}")
            for (variant, threads), seconds in found.items():
                seconds.append(cold_start(bundle.path, variant, policy, threads, file))
    return found
