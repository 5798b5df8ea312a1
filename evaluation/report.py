"""An evaluation for people: a table, a rate-distortion plot and a grid of pictures."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..runtime.files import replace_file
from .evaluate import Evaluation
from .means import known
from .peers import FORMATS

GRID_COLUMNS = 12


def table(e: Evaluation) -> str:
    """The figures as lines; means +- standard errors."""
    lines = [
        f"{e.name} ({e.digest[:8]}), {e.variant}, policy {e.policy}, {e.faces} faces"
        + (f" ({e.skipped} unreadable ones left out)" if e.skipped else ""),
        f"  bytes of a face     {e.payload_bytes} payload ({e.bits_per_pixel:.4f} bpp), {e.packet_bytes} packet, "
        f"{e.compact_bytes} compact packet",
        f"  PSNR                {e.psnr} dB",
        f"  MS-SSIM             {e.ms_ssim}",
        f"  IDS                 {e.ids}",
        f"  code usage          {e.usage.per_token:.1%} of a token's K code values, {e.usage.entropy_bits:.2f} bits; "
        f"{e.usage.groups_used} groups, {e.usage.group_entropy_bits:.2f} bits",
    ]
    if e.router_agreement is not None:
        lines.append(f"  router and NN       choose the same group for {e.router_agreement:.1%}")
    for row, found in e.verification.items():
        lines.append(f"  verification        {found.accuracy:.2%} +- {found.error:.2%}  {row} ({found.pairs} pairs)")
    if e.peers:
        lines.append(f"peers on {e.peer_faces} faces, best scale and quality for each picture:")
        lines.append("  codec      budget   bytes  codestream  fit    PSNR             IDS")
    for p in e.peers:
        lines.append(
            f"  {FORMATS[p.codec].title:10} {p.budget:6} {p.size.value:7.1f} {p.codestream.value:11.1f} "
            f"{p.fitting:4.0%}    {p.psnr!s:16} {p.ids}"
        )
    for name in dict.fromkeys(p.codec for p in e.peers if p.codec not in {q.codec for q in e.equal}):
        most = max(p.budget for p in e.peers if p.codec == name)
        lines.append(f"  {FORMATS[name].title} has not this codec's IDS, {e.peer_ids}, in {most} bytes")
    for p in e.equal:
        size, stream = p.size.value, p.codestream.value
        times = f"{size / e.packet_bytes:.2f} +- {known(p.error / e.packet_bytes, '.2f')}"
        lines.append(
            f"  {FORMATS[p.codec].title} needs {size:.0f} +- {known(p.error, '.0f')} bytes for this codec's IDS on "
            f"these faces, {e.peer_ids}: {times} times the packet, {size / e.compact_bytes:.2f} times a compact one; "
            f"without headers {stream:.0f}, {stream / e.payload_bytes:.2f} times the payload"
        )
    return "\n".join(lines)


def save(evaluation: Evaluation, images: NDArray[np.uint8], decoded: NDArray[np.uint8], out: Path) -> list[Path]:
    """Write evaluation.json, rate-distortion.png (with peers) and faces.png into a folder, each whole or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    written = [out / "evaluation.json", out / "faces.png"]
    replace_file(written[0], lambda path: path.write_text(json.dumps(evaluation.to_dict(), indent=2) + "\n"))
    sheet = grid(images, decoded)
    replace_file(written[1], lambda path: sheet.save(path, "PNG"))
    if evaluation.peers:
        figure = plot(evaluation)
        replace_file(out / "rate-distortion.png", lambda path: figure.savefig(path, format="png", dpi=120))
        written.append(out / "rate-distortion.png")
    return written


def grid(images: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> Image.Image:
    """Two double rows of evenly spaced pictures, originals over decoded ones."""
    picks = np.linspace(0, len(images) - 1, min(2 * GRID_COLUMNS, len(images))).astype(int)
    rows: list[NDArray[np.uint8]] = []
    for part in (picks[:GRID_COLUMNS], picks[GRID_COLUMNS:]):
        if len(part):
            pair = [np.concatenate(list(x[part]), 1) for x in (images, decoded)]
            blank = np.full((len(pair[0]), rows[0].shape[1] - pair[0].shape[1], 3), 255, np.uint8) if rows else None
            rows += [np.concatenate([row, blank], 1) if blank is not None else row for row in pair]
    return Image.fromarray(np.concatenate(rows))


def plot(e: Evaluation) -> Figure:
    """IDS and PSNR over bytes of a face, error bars one standard error."""
    with mpl.rc_context({"font.size": 9}):
        figure = Figure(figsize=(10, 4), layout="constrained")
        for axes, name, title in zip(figure.subplots(1, 2), ("ids", "psnr"), ("IDS", "PSNR, dB"), strict=True):
            own = getattr(e, name)
            axes.errorbar([e.packet_bytes], [own.value], [own.error], fmt="*", ms=12, color="black", label=e.name)
            for codec in dict.fromkeys(p.codec for p in e.peers):
                points = [p for p in e.peers if p.codec == codec and p.fitting == 1]
                if points:
                    x, y = [p.size.value for p in points], [getattr(p, name) for p in points]
                    label = FORMATS[codec].title
                    axes.errorbar(
                        x, [m.value for m in y], [m.error for m in y], marker="o", ms=3, capsize=2, label=label
                    )
            axes.set(xlabel="bytes of a face, headers included", ylabel=title, xlim=(0, None))
            axes.grid(alpha=0.3)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center")  # beside: a star must not hide
    return figure
