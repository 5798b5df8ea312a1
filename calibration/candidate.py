"""One int8 encoder that was judged, and the table of all of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .gate import Scores
from .race import Speed

HEAD = (
    "candidate",
    "float layers",
    "latents",
    "tokens",
    "groups",
    "PSNR drop",
    "IDS drop",
    "verification",
    "speed",
    "",
)


@dataclass(frozen=True)
class Candidate:
    """One int8 encoder.

    Attributes:
        target, variant: what it is for, and the variant it would be.
        floating: layers that stay float.
        files: the graph, then what it reads.
        scores: on the held-out pictures.
        golden: on the bundle's photographs.
        speed: against its fastest float sibling; None = not timed, because it failed before or cannot run here.
        refused: why it is not in the bundle; empty = it passed.
    """

    target: str
    variant: str
    floating: tuple[str, ...]
    files: tuple[Path, ...] = field(repr=False)
    scores: Scores
    golden: Scores
    speed: Speed | None = None
    refused: tuple[str, ...] = ()

    def timed(self, speed: Speed | None, refused: tuple[str, ...]) -> Candidate:
        """The same with its time, and the reasons that come from it."""
        return dataclasses.replace(self, speed=speed, refused=refused)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        document = dataclasses.asdict(self)
        document.pop("files")
        return document


def table(candidates: Sequence[Candidate]) -> str:
    """One line for each candidate; the last column says whether it was kept, or why not."""
    rows = [HEAD, *(_row(candidate) for candidate in candidates)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _row(candidate: Candidate) -> tuple[str, ...]:
    """A candidate's line."""
    scores, speed = candidate.scores, candidate.speed
    checked = scores.verification and scores.verification_before
    if candidate.refused:
        verdict = "refused: " + "; ".join(candidate.refused)
    else:
        verdict = "kept" if speed else "kept, not timed here"
    return (
        candidate.variant,
        str(len(candidate.floating)),
        f"{scores.latents:.4f}",
        f"{scores.token_agreement:.3f}",
        "-" if scores.group_agreement is None else f"{scores.group_agreement:.3f}",
        str(scores.psnr_drop),
        str(scores.ids_drop) if scores.ids_drop else "no recogniser",
        f"{scores.verification_before.accuracy:.2%} -> {scores.verification.accuracy:.2%}"
        if checked and scores.verification and scores.verification_before
        else "no pairs",
        f"{speed.ratio:.2f}x ({speed.sibling_ms:.2f} -> {speed.ms:.2f} ms)" if speed else "-",
        verdict,
    )
