"""A profile as a picture: stacked stages of every run, with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .html import COLOURS, medians


def plot(document: dict[str, Any], path: Path, kind: str = "png") -> None:
    """Draw the median milliseconds a face of every run's stages.

    Args:
        document: a profile.
        path: the file.
        kind: "png", "svg" or "pdf".
    """
    runs = document["runs"]
    figure = Figure(figsize=(10, 1.8 + 0.6 * len(runs)), layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(stage for run in runs for stage in medians(run)))
    left = [0.0] * len(runs)
    for place, name in enumerate(names):
        widths = [medians(run).get(name, 0.0) for run in runs]
        axes.barh([run["run"] for run in runs], widths, left=left, label=name, color=COLOURS[place % len(COLOURS)])
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("median milliseconds a face")
    noisy = ", noisy machine" if document["noisy"] else ""
    axes.set_title(
        f"{document['bundle']['name']} on {document['machine']['cpu'] or 'an unknown CPU'}{noisy}", fontsize=10
    )
    figure.legend(fontsize=8, ncols=len(names), loc="outside lower center")
    figure.savefig(path, dpi=120, format=kind)
