"""What the golden self-test (`verify`) found, and what it lets pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from .flips import Flip

PIXEL_SHARE = 0.999
SHOWN_FLIPS = 5  # in a report's text


class Tolerance(NamedTuple):
    """What a variant may differ from torch by.

    Attributes:
        latents: largest difference of a latent, in RMS of the latents.
        gap: largest relative distance gap of a token or group that differs.
        levels: grey levels that 99.9 % of the decoded values must keep within.
    """

    latents: float
    gap: float
    levels: int


TOLERANCES = {"fp32": Tolerance(1e-3, 1e-4, 1), "fp16": Tolerance(5e-2, 1e-2, 2)}


@dataclass(frozen=True)
class Report:
    """What the self-test found.

    Attributes:
        variant: the variant tested.
        faces: golden images compared.
        latent_difference: largest absolute difference of a latent, relative to the latents' RMS.
        token_agreement, group_agreement: fractions equal; tokens are compared where their sets of books
            agree, and groups by these sets.
        packet_agreement: fraction of faces with the same packet, byte for byte.
        largest_gap: of all differing tokens and groups, the largest relative distance gap.
        flips: the differing selections with the largest gaps, at most 20.
        router_difference: largest difference of a router's score, relative to the scores' RMS; None = not in the
            reference.
        pixel_share: fraction of decoded values within the allowed grey levels.
        largest_pixel: largest difference of a decoded value in grey levels.
        psnr: dB between the decoded images and the reference's; None = equal.
        packets_equal: golden tokens pack to the golden bytes and back.
        failures: what was out of tolerance, one sentence each; empty = passed.
    """

    variant: str
    faces: int
    latent_difference: float
    token_agreement: float
    group_agreement: float
    packet_agreement: float
    largest_gap: float
    flips: tuple[Flip, ...]
    router_difference: float | None
    pixel_share: float
    largest_pixel: int
    psnr: float | None
    packets_equal: bool
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was inside its tolerance."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy; a figure that is no finite number is None."""
        figures = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(self).items()}
        return figures | {"flips": [flip._asdict() for flip in self.flips], "passed": self.passed}

    def to_text(self) -> str:
        """What a person wants to know, in a few lines; everything else is in `to_dict`."""
        router = "" if self.router_difference is None else f", router scores by {self.router_difference:.2g}"
        likeness = (
            "equal to the reference" if self.psnr is None else f"{self.psnr:.1f} dB, by up to {self.largest_pixel}"
        )
        lines = [
            f"{self.variant}: {'passed' if self.passed else 'FAILED'} on {self.faces} golden faces",
            f"  latents differ by {self.latent_difference:.2g} RMS{router}",
            f"  equal: {self.token_agreement:.2%} of tokens, {self.group_agreement:.2%} of groups, "
            f"{self.packet_agreement:.2%} of packets; largest distance gap {self.largest_gap:.2g}",
            f"  decoded pictures: {likeness}; {self.pixel_share:.2%} of values within tolerance",
        ]
        lines += [f"  {flip.text()}" for flip in self.flips[:SHOWN_FLIPS]]
        return "\n".join(lines + [f"  failure: {failure}" for failure in self.failures])


def failures_of(figures: Mapping[str, Any], limits: Tolerance) -> tuple[str, ...]:
    """The sentences about what is out of tolerance, each naming the graph and tensor."""
    failures = []
    if not figures["latent_difference"] <= limits.latents:
        failures.append(f"encoder: latents differ by {figures['latent_difference']:.2g} RMS (limit {limits.latents:g})")
    if not figures["largest_gap"] <= limits.gap:
        face, token, wanted, found, gap = figures["flips"][0]
        what = f"group of face {face}" if token is None else f"index of token {token} of face {face}"
        failures.append(
            f"tokenizer: indices differ by a distance gap of {gap:.2g} (limit {limits.gap:g}): "
            f"{what} is {found}, torch has {wanted}"
        )
    if figures["router_difference"] is not None and not figures["router_difference"] <= limits.latents:
        failures.append(f"router: scores differ by {figures['router_difference']:.2g} RMS (limit {limits.latents:g})")
    if not figures["pixel_share"] >= PIXEL_SHARE:
        failures.append(
            f"decoder: image within {limits.levels} grey levels at {figures['pixel_share']:.4%} of values "
            f"(limit {PIXEL_SHARE:.1%})"
        )
    if not figures["packets_equal"]:
        failures.append("packets: the golden tokens do not pack to the golden bytes")
    return tuple(failures)
