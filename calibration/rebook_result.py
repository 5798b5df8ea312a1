"""What came of giving a bundle other codebooks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .gate import Scores


@dataclass(frozen=True)
class Rebooked:
    """A bundle with other codebooks, against the one it came from.

    Attributes:
        bundle: the new folder.
        digest, old_digest: of the two models, hex.
        error, old_error: mean squared quantisation error of a latent on the held-out faces.
        scores: on the held-out faces; a negative drop is a gain.
        size, old_size: bytes of codebooks.safetensors.
        dropped: variants that the new bundle has not, and the file of entropy tables.
        refused: why nothing was written; empty = it was.
        again: what makes anew what was left out, as far as it can be had; empty = nothing was.
    """

    bundle: Path
    digest: str
    old_digest: str
    error: float
    old_error: float
    scores: Scores
    size: int
    old_size: int
    dropped: tuple[str, ...]
    refused: tuple[str, ...]
    again: str = ""

    @property
    def kept(self) -> bool:
        """Whether the new bundle was written."""
        return not self.refused

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self) | {"bundle": str(self.bundle), "kept": self.kept}

    def summary(self) -> str:
        """A few lines."""
        scores = self.scores
        lines = [
            f"quantisation error {self.old_error:.4f} -> {self.error:.4f} ({self.error / self.old_error - 1:+.1%})",
            f"PSNR {scores.psnr} dB, gain {-scores.psnr_drop.value:+.3f} +- {scores.psnr_drop.error:.2g} dB",
        ]
        if scores.ids and scores.ids_drop:
            lines.append(f"IDS {scores.ids}, gain {-scores.ids_drop.value:+.4f} +- {scores.ids_drop.error:.2g}")
        if scores.verification and scores.verification_before:
            before, after = scores.verification_before.accuracy, scores.verification.accuracy
            lines.append(f"verification, original against decoded: {before:.2%} -> {after:.2%}")
        lines.append(f"codebooks {self.old_size:,} -> {self.size:,} bytes")
        if self.refused:
            return "\n".join([*lines, "refused: " + "; ".join(self.refused)])
        if self.dropped:
            lines.append(f"left out: {', '.join(self.dropped)}; {self.again}")
        return "\n".join([*lines, f"wrote {self.bundle}, model {self.old_digest[:8]} -> {self.digest[:8]}"])
