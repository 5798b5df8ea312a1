"""A profile as one HTML page: tables, bars, the machine and the warnings; it needs no other file and no network."""

from __future__ import annotations

from html import escape
from typing import Any

from .tables import Table, facts, tables

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 2em; }
th, td { padding: .2em .8em; border-bottom: 1px solid #ddd; text-align: right; white-space: pre; }
th:first-child, td:first-child { text-align: left; }
.bar { display: flex; height: 1.3em; margin: .2em 0; background: #f3f3f3; }
.bar span { overflow: hidden; font-size: 12px; padding-left: 3px; color: #fff; white-space: nowrap; }
.warning { color: #a33; }
"""
COLOURS = ("#4269d0", "#b86f00", "#b8323f", "#2e8b80", "#3c8a3c", "#8a5bb0", "#7a5c48")


def page(document: dict[str, Any]) -> str:
    """The page."""
    name = escape(document["bundle"]["name"])
    warnings = "".join(f'<p class="warning">{escape(sentence)}</p>' for sentence in document["warnings"])
    failures = "".join(
        f'<p class="warning">{escape(entry["variant"])} failed: {escape(entry["error"])}</p>'
        for entry in document["failed"]
    )
    about = "".join(f"<p>{escape(line)}</p>" for line in facts(document))
    body = about + warnings + failures + bars(document) + "".join(table_html(table) for table in tables(document))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>stcq profile: {name}</title>'
        f"<style>{STYLE}</style></head><body><h1>Profile of {name}</h1>{body}</body></html>\n"
    )


def bars(document: dict[str, Any]) -> str:
    """For each run a bar of its stages' medians per face; all bars have one scale."""
    runs = [(run["run"], medians(run)) for run in document["runs"]]
    longest = max((sum(parts.values()) for _, parts in runs), default=0) or 1
    lines = ["<h2>Median milliseconds a face, by stage</h2>"]
    for name, parts in runs:
        cells = "".join(
            f'<span style="width:{100 * value / longest:.2f}%;background:{COLOURS[place % len(COLOURS)]}" '
            f'title="{escape(stage)} {value:.3f} ms">{escape(stage)}</span>'
            for place, (stage, value) in enumerate(parts.items())
        )
        lines.append(f'<div>{escape(name)}: {sum(parts.values()):.2f} ms</div><div class="bar">{cells}</div>')
    return "".join(lines)


def medians(run: dict[str, Any]) -> dict[str, float]:
    """Stage -> median milliseconds a face, of the steps that make up encode and decode."""
    return {
        entry["stage"]: entry["p50"]["value"] / run["batch"]
        for entry in run["stages"]
        if entry["part_of"] is None and entry["stage"] not in ("encode", "decode")
    }


def table_html(table: Table) -> str:
    """One table with its title."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<h2>{escape(table.title)}</h2><table><tr>{head}</tr>{rows}</table>"
