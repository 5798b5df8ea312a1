"""The proof of an export: parity of every new variant with torch, what the targets differ by, and the table of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ParityError
from ..runtime.backends import is_installed
from ..runtime.bundle import Bundle
from ..runtime.codec import Codec
from ..runtime.manifest import Variant
from ..runtime.verify import compare, psnr, verify
from ..runtime.verify_report import TOLERANCES, Report

Arrays = dict[str, NDArray[Any]]
REPEATS = 15


@dataclass(frozen=True)
class Proof:
    """What was measured on one variant.

    Attributes:
        reports: parity on the golden set and, if given, on the caller's pictures; empty = no library here to run it.
        latency_ms: median milliseconds of one encode and one decode, on this machine as it is now.
        automatic: the precision that the device takes by itself and what that does to the tokens; None = float32.
    """

    reports: dict[str, Report]
    latency_ms: dict[str, float] | None = None
    automatic: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        reports = {what: report.to_dict() for what, report in self.reports.items()}
        return {"parity": reports, "latency_ms": self.latency_ms, "automatic": self.automatic}


def prove(folder: Path, variant: Variant, references: dict[str, Arrays]) -> Proof:
    """Run the parity suite over one variant of a fresh bundle.

    Args:
        folder: the bundle, whose manifest lists the variant.
        variant: the variant.
        references: "golden" and perhaps "images" -> torch's results.

    Raises:
        ParityError: something is out of tolerance; the message names the graph and tensor.
    """
    if not is_installed(variant.backend):
        return Proof({})
    with Codec(Bundle(folder), variant.name) as codec:
        reports = {what: verify(codec, None if what == "golden" else data) for what, data in references.items()}
        for what, report in reports.items():
            if not report.passed:
                raise ParityError(f"{variant.name} disagrees with torch on {what}: {'; '.join(report.failures)}")
        image = references["golden"]["images"][0]
        packet = codec.encode(image)
        latency = {
            "encode": _median_ms(lambda: codec.encode(image)),
            "decode": _median_ms(lambda: codec.decode(packet)),
        }
    return Proof(reports, latency, _automatic(folder, variant, references["golden"]))


def _median_ms(call: Callable[[], object]) -> float:
    """Median time of a call."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return round(statistics.median(times), 2)


def _automatic(folder: Path, variant: Variant, golden: Arrays) -> dict[str, Any] | None:
    """What the device does where it may choose the precision; reported, never a failure."""
    with Codec(Bundle(folder), variant.name, precision="auto") as codec:
        chosen = codec.precision
        if chosen == "f32":
            return None
        report = compare(codec, golden, (golden["group"], golden["indices"]), TOLERANCES["fp16"])
        image = golden["images"][0]
        latency = _median_ms(lambda: codec.encode(image))
    figures = ("latent_difference", "token_agreement", "group_agreement", "largest_gap", "psnr")
    return {"precision": chosen, "encode_ms": latency} | {name: getattr(report, name) for name in figures}


def between(folder: Path, variants: list[Variant], golden: Arrays) -> dict[str, float | None]:
    """PSNR in dB between what each two runnable variants decode from the golden tokens; None = equal."""
    images: dict[str, NDArray[np.uint8]] = {}
    for variant in variants:
        if is_installed(variant.backend):
            with Codec(Bundle(folder), variant.name) as codec:
                feeds = {"group": golden["group"], "indices": golden["indices"]}
                images[variant.name] = codec.run("decoder", feeds)["image"]
    return {f"{a} / {b}": psnr(images[a], images[b]) for a, b in combinations(images, 2)}
