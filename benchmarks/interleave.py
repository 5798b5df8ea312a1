"""Timing several functions in turns, and the table of their medians and ratios. Used by the scripts beside it."""

import time
from collections.abc import Callable
from typing import Any

import click
from stcq.profiling.load import disturbances, load_between, moment
from stcq.profiling.quantiles import ratio, summary
from stcq.profiling.tables import between


def interleave(
    functions: dict[str, Callable[[], Any]], rounds: int, warm: int = 3, watch: bool = True
) -> dict[str, list[float]]:
    """Milliseconds of each function in each round; the order turns around from round to round.

    `watch` says where other processes were busy; not for functions that wait for processes of their own.
    """
    for run in functions.values():
        for _ in range(warm):
            run()
    times: dict[str, list[float]] = {name: [] for name in functions}
    first, own = moment(), time.process_time()
    for number in range(rounds):
        for name in list(functions)[:: -1 if number % 2 else 1]:
            start = time.perf_counter()
            functions[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    for sentence in disturbances(load_between(first, moment(), time.process_time() - own)) if watch else ():
        click.echo(f"noisy: {sentence}")
    return times


def table(times: dict[str, list[float]], baseline: str, unit: float = 1.0, name: str = "ms") -> None:
    """Print medians with their 95 % intervals, and how many times faster each is than the baseline."""
    width = max(map(len, times))
    for what, values in times.items():
        middle, faster = summary(values)["p50"], ratio(values, times[baseline])
        scaled = {end: None if value is None else value * unit for end, value in middle.items()}
        click.echo(
            f"{what:{width}} {scaled['value']:9.3f} {name} ({between(scaled)})   "
            f"{faster.value:.2f}x of {baseline} ({between(faster.to_dict(), 2)})"
        )
