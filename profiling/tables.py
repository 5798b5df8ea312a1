"""A profile as tables: heads and rows of text, which the terminal and the HTML report show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

PERCENTILES = ("p50", "p90", "p99")


class Table(NamedTuple):
    """A table of text; the first column is left-aligned, the others hold numbers."""

    title: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(document: dict[str, Any]) -> list[Table]:
    """Overview of all runs, then each run's stages."""
    return [overview(document), *(stage_table(run) for run in document["runs"])]


def overview(document: dict[str, Any]) -> Table:
    """One row per run: medians per face, how much faster than the first run, cold start, memory, size."""
    faster = {entry["run"]: entry["times_faster"] for entry in document["comparison"]}
    rows: list[tuple[str, ...]] = []
    for run in document["runs"]:
        speed = {name: f"{1e3 / rate:.2f}" for name, rate in run["faces_per_second"].items()}
        cells = [
            f"{speed.get(name, '-')} {times(faster.get(run['run'], {}).get(name))}".strip()
            for name in ("encode", "decode")
        ]
        seen = run["memory"]
        grown = more(seen["library"]["resident_mb"], seen.get("decode", seen["encode"])["resident_mb"])
        cold = run["cold_start_ms"]["median"]
        size = f"{run['model_bytes']['all'] / 1e6:.1f}"
        rows.append(
            (
                run["run"],
                *cells,
                f"{cold:.0f}" if cold else "-",
                grown,
                size,
                "yes" if run["warm_up"]["stable"] else "no",
            )
        )
    head = (
        "run",
        "encode, ms",
        "decode, ms",
        "cold start, ms",
        "memory over library, MB",
        "model, MB",
        "warmed up",
    )
    return Table("Runs, medians a face (times faster than the first run, 95 % interval)", head, rows)


def stage_table(run: dict[str, Any]) -> Table:
    """Percentiles of one run's stages in milliseconds; parts of a stage are indented."""
    rows: list[tuple[str, ...]] = []
    for entry in run["stages"]:
        name = f"  {entry['stage']}" if entry["part_of"] else entry["stage"]
        cells = [f"{entry[p]['value']:.3f} ({between(entry[p])})" for p in PERCENTILES]
        rows.append((name, *cells, f"{entry['max']:.3f}", str(entry["count"])))
    title = f"{run['run']}: milliseconds for {run['batch']} face{'s' if run['batch'] > 1 else ''}"
    return Table(title, ("stage", *PERCENTILES, "max", "rounds"), rows)


def comparison_table(found: dict[str, Any]) -> Table:
    """The rows of two compared profiles."""
    rows: list[tuple[str, ...]] = [
        (
            f"{row['run']} {row['stage']}",
            f"{row['first_ms']:.3f}",
            f"{row['second_ms']:.3f}",
            f"{row['times_faster']:.2f}" if row["times_faster"] else "-",
            row["verdict"],
        )
        for row in found["rows"]
    ]
    return Table(
        "First and second profile, medians",
        ("run and stage", "first, ms", "second, ms", "times faster", "verdict"),
        rows,
    )


def facts(document: dict[str, Any]) -> list[str]:
    """The machine and its state in a few lines."""
    bundle, machine, load = (document[key] for key in ("bundle", "machine", "load"))
    after = document["sensors"]["after"]
    lines = [
        f"{bundle['name']} {bundle['digest'][:8]}, policy {bundle['policy']}, {document['time']}",
        f"{machine['board'] or machine['cpu'] or 'unknown CPU'}, {machine['cpus']} CPUs, {machine['os']}",
        f"governor {after['governor']}, clock {flat(after['clock_mhz'])} MHz, {flat(after['temperature_c'])} degrees",
        f"other load {load['others']} CPUs, taken by the host {load['stolen']} CPUs",
    ]
    if isinstance(after["sensors"], dict):
        lines.append("; ".join(f"{name} {flat(value)}" for name, value in after["sensors"].items()))
    return lines


def as_text(document: dict[str, Any]) -> str:
    """The whole profile for a terminal."""
    parts = [*facts(document), *(text_table(table) for table in tables(document))]
    parts += [
        f"failed: {entry['variant']} on {entry['threads']} threads: {entry['error']}" for entry in document["failed"]
    ]
    parts += [f"warning: {sentence}" for sentence in document["warnings"]]
    if document["noisy"]:
        parts.append("this machine is noisy: read ratios of one profile, and measure again before comparing two")
    return "\n".join(parts)


def text_table(table: Table) -> str:
    """A table in columns."""
    columns = list(zip(table.head, *table.rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [aligned(row, widths) for row in (table.head, *table.rows)]
    return "\n".join(["", table.title, lines[0], "-" * len(lines[0]), *lines[1:]])


def aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """One line."""
    cells = [
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def between(figure: dict[str, Any], digits: int = 3) -> str:
    """An interval, such as "2.05 .. 2.14"; "?" is an end that the number of rounds does not bound."""
    return " .. ".join("?" if figure[end] is None else f"{figure[end]:.{digits}f}" for end in ("low", "high"))


def times(figure: dict[str, Any] | None) -> str:
    """Such as "(2.10x, 2.05 .. 2.14)"."""
    return f"({figure['value']:.2f}x, {between(figure, 2)})" if figure else ""


def more(before: Any, after: Any) -> str:
    """A difference of two readings."""
    return f"{after - before:.1f}" if isinstance(before, float) and isinstance(after, float) else "unknown"


def flat(value: Any) -> str:
    """A reading on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return str(value)
