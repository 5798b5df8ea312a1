"""`stcq build`: make ahead of time what a backend makes at first use, and prove that it computes the codec."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import BundleError
from .bundle import Bundle
from .codec import Codec
from .verify import verify


def build(path: Path, target: str, variant: str | None = None) -> list[dict[str, Any]]:
    """Build the engines of a bundle's variants for this machine and run the golden self-test on them.

    Args:
        path: the bundle.
        target: "tensorrt", the only one that builds on the device.
        variant: one variant's name; None = all of the target.

    Returns:
        For each variant its name, its engines (types, seconds, whether they were cached) and the self-test's report.

    Raises:
        BundleError: the bundle has no such variant.
        BackendMissing: the target's library is not installed.
        BackendError: an engine cannot be built.
    """
    bundle = Bundle(path)
    try:
        names = [v.name for v in bundle.manifest.variants if v.backend == target and variant in (None, v.name)]
        if not names:
            has = ", ".join(v.name for v in bundle.manifest.variants)
            raise BundleError(
                f"{path} has no variant {variant or f'for {target}'} to build; it has: {has}; add one with: "
                f"stcq-export CHECKPOINT -o {path} --target {target}"
            )
        return [_build(bundle, name) for name in names]
    finally:
        bundle.close()


def _build(bundle: Bundle, name: str) -> dict[str, Any]:
    """One variant."""
    codec = Codec(bundle, name)
    engines = {}
    try:
        for graph in codec.variant.graphs:
            facts = codec.session(graph).facts
            engines[graph] = {what: facts[what] for what in ("types", "seconds", "cached") if what in facts}
        return {"variant": name, "engines": engines, "verify": verify(codec).to_dict()}
    finally:
        codec.close_graphs()
