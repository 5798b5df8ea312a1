"""The curves of a run's log as a picture."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from ..runtime.files import replace_file

PANELS = ("loss", "psnr", "ids", "identity", "quantization", "lr")


def read_log(log: Path) -> list[dict[str, Any]]:
    """The records of a log of JSON lines; a line that a power cut left unfinished is passed over."""
    records = []
    for line in log.read_bytes().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return [record for record in records if isinstance(record, dict)]


def draw_curves(log: Path, out: Path) -> None:
    """One PNG with the curves of a log of JSON lines: training terms thin, validation figures with dots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    series: dict[str, dict[str, list[tuple[float, float]]]] = {name: defaultdict(list) for name in PANELS}
    for record in read_log(log):
        for name, value in (record | record.get("validation", {})).items():
            panel = name.partition("_")[0]
            if panel in series and {"step", "stage"} <= record.keys():
                kind = " (val)" if name in record.get("validation", {}) else ""
                series[panel][f"{record['stage']} {name}{kind}"].append((record["step"], value))
    figure = Figure(figsize=(12, 6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (panel, lines) in zip(figure.subplots(2, 3).flat, series.items(), strict=True):
        for label, points in lines.items():
            axes.plot(*zip(*points, strict=True), "o-" if "val" in label else "-", ms=3, lw=0.8, label=label)
        axes.set(title=panel, xlabel="step")
        if lines:
            axes.legend(fontsize=6)
    replace_file(out, lambda path: figure.savefig(path, format="png", dpi=100))
