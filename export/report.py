"""What an export tells people: one table, one line for what the device does by itself, one for the bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.manifest import Variant
from .proof import Proof

HEAD = (
    "variant",
    "MB",
    "opset",
    "IR",
    "precision",
    "batch",
    "tokens",
    "groups",
    "pixel",
    "PSNR",
    "enc/dec ms",
    "verdict",
)


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        bundle: the folder.
        size: bytes of all its files.
        digest: the model digest, hex.
        variants: the new variants as they stand in the manifest, with their sizes in bytes.
        proofs: variant name -> what was measured on it.
        between: PSNR in dB between every two variants that run here, old ones too; None = equal.
        kept: variants of the old bundle that are still there.
        dropped: variants of the old bundle that went with another model, or with the sibling they were measured by, and
            its entropy tables' file if it went with another model.
        rounding: what storing weights or codebooks in fewer bytes cost; None = nothing was rounded.
    """

    bundle: Path
    size: int
    digest: str
    variants: tuple[tuple[Variant, int], ...]
    proofs: dict[str, Proof]
    between: dict[str, float | None]
    kept: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    rounding: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        variants = [v.to_dict() | {"size": size} | self.proofs[v.name].to_dict() for v, size in self.variants]
        return {
            "bundle": str(self.bundle),
            "size": self.size,
            "digest": self.digest,
            "variants": variants,
            "psnr_between": self.between,
            "kept": list(self.kept),
            "dropped": list(self.dropped),
            "rounding": self.rounding,
        }

    def summary(self) -> str:
        """The table and what belongs under it."""
        rows = [HEAD] + [_row(variant, size, self.proofs[variant.name]) for variant, size in self.variants]
        widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        for variant, _ in self.variants:
            if automatic := self.proofs[variant.name].automatic:
                lines.append(
                    f"{variant.name}: left alone this device computes in {automatic['precision']}: tokens equal "
                    f"{automatic['token_agreement']:.2%}, encode {automatic['encode_ms']:.1f} ms; stcq asks for f32"
                )
            for version, problems in variant.details.get("unsupported", {}).items():
                lines.append(f"{variant.name}: TensorRT {version} cannot read it: {', '.join(problems)}")
        lines += [f"PSNR {pair}: {'equal' if db is None else f'{db:.1f} dB'}" for pair, db in self.between.items()]
        if self.rounding:
            lines.append("rounding: " + ", ".join(f"{name} {value}" for name, value in self.rounding.items()))
        if self.dropped:
            lines.append(f"gone with another model, or with the sibling written anew: {', '.join(self.dropped)}")
        kept = f", kept {', '.join(self.kept)}" if self.kept else ""
        return "\n".join([*lines, f"wrote {self.bundle} ({self.size / 1e6:.1f} MB, model {self.digest[:8]}{kept})"])


def _row(variant: Variant, size: int, proof: Proof) -> tuple[str, ...]:
    """One line of the table; the worst of the parity reports."""
    built = variant.details["built"]
    facts = (variant.name, f"{size / 1e6:.1f}", str(built["opset"]), str(built["ir_version"]), str(built["precision"]))
    if not proof.reports:
        return (*facts, str(built["batch"]), "-", "-", "-", "-", "-", "not run here")
    reports = list(proof.reports.values())
    decibels = [report.psnr for report in reports if report.psnr is not None]
    latency = proof.latency_ms or {}
    return (
        *facts,
        str(built["batch"]),
        f"{min(r.token_agreement for r in reports):.3%}",
        f"{min(r.group_agreement for r in reports):.2%}",
        str(max(r.largest_pixel for r in reports)),
        f"{min(decibels):.1f} dB" if decibels else "equal",
        f"{latency.get('encode', 0):.1f} / {latency.get('decode', 0):.1f}",
        "passed",
    )
