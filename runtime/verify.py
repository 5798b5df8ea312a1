"""The golden self-test: does this machine compute the codec that was exported? Needs no torch.

Margin-aware: a token that differs is harmless when the two codewords are equally near, so every difference is
reported with its distance gap, and only gaps above the tolerance fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .codec import Codec
from .search import distances

LATENT_TOLERANCE = 1e-3
GAP_TOLERANCE = 1e-4
PIXEL_SHARE = 0.999


@dataclass(frozen=True)
class Report:
    """What the self-test found.

    Attributes:
        variant: the variant tested.
        faces: golden images compared.
        latent_difference: largest absolute difference of a latent, relative to the latents' RMS.
        token_agreement, group_agreement: fractions equal.
        largest_gap: of all differing tokens and groups, the largest relative distance gap.
        pixel_share: fraction of decoded values within one grey level.
        largest_pixel: largest difference of a decoded value in grey levels.
        packets_equal: golden tokens pack to the golden bytes and back.
        failures: what was out of tolerance, one sentence each; empty = passed.
    """

    variant: str
    faces: int
    latent_difference: float
    token_agreement: float
    group_agreement: float
    largest_gap: float
    pixel_share: float
    largest_pixel: int
    packets_equal: bool
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether everything was inside its tolerance."""
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self) | {"passed": self.passed}


def verify(codec: Codec, reference: Mapping[str, NDArray[Any]] | None = None) -> Report:
    """Compare a codec with reference results.

    Args:
        codec: the open codec; its `nn` graphs are tested whatever its policy.
        reference: images (N, S, S, 3) uint8, latents (N, T, d) float32, group (N,), indices (N, T), packets
            (N, P + 9) uint8, outputs (N, S, S, 3) uint8; None = the bundle's golden set, after checking all files.

    Raises:
        BundleError: a file of the bundle is damaged.
    """
    if reference is None:
        codec.bundle.verify_files()
        reference = codec.bundle.golden()
    images, latents = np.asarray(reference["images"]), np.asarray(reference["latents"])
    wanted_group, wanted_indices = np.asarray(reference["group"]), np.asarray(reference["indices"])
    found_latents = codec._session("encoder").run({"image": images})["latents"]
    latent_difference = float(np.abs(found_latents - latents).max() / np.sqrt(np.square(latents).mean()))
    group, indices = codec._session("tokenizer").run({"image": images}).values()
    split_group, split_indices = codec._session("quantizer").run({"latents": found_latents}).values()
    packets = codec.bundle.manifest.codec.packets
    stored = [row.tobytes() for row in np.asarray(reference["packets"])]
    unpacked = packets.unpack(stored)
    packets_equal = packets.pack(wanted_group, wanted_indices) == stored and all(
        np.array_equal(a, b) for a, b in zip(unpacked, (wanted_group, wanted_indices), strict=True)
    )
    decoded = codec._session("decoder").run({"group": wanted_group, "indices": wanted_indices})["image"]
    pixels = np.abs(decoded.astype(int) - np.asarray(reference["outputs"]))
    gap = max(
        flip_gap(latents, codec.bundle.codebooks, (wanted_group, wanted_indices), found)
        for found in ((group, indices), (split_group, split_indices))
    )
    same = group == wanted_group
    figures: dict[str, Any] = {
        "variant": codec.variant.name,
        "faces": len(images),
        "latent_difference": latent_difference,
        "token_agreement": float((indices == wanted_indices)[same].mean()) if same.any() else 0.0,
        "group_agreement": float(same.mean()),
        "largest_gap": gap,
        "pixel_share": float((pixels <= 1).mean()),
        "largest_pixel": int(pixels.max()),
        "packets_equal": packets_equal,
    }
    return Report(**figures, failures=_failures(figures))


def _failures(figures: Mapping[str, Any]) -> tuple[str, ...]:
    """The sentences about what is out of tolerance, each naming the graph and tensor."""
    failures = []
    if not figures["latent_difference"] <= LATENT_TOLERANCE:
        failures.append(f"encoder: latents differ by {figures['latent_difference']:.2g} RMS (limit {LATENT_TOLERANCE})")
    if not figures["largest_gap"] <= GAP_TOLERANCE:
        failures.append(
            f"tokenizer: indices differ by a distance gap of {figures['largest_gap']:.2g} (limit {GAP_TOLERANCE})"
        )
    if not figures["pixel_share"] >= PIXEL_SHARE:
        failures.append(
            f"decoder: image within one level at {figures['pixel_share']:.4%} of values (limit {PIXEL_SHARE:.1%})"
        )
    if not figures["packets_equal"]:
        failures.append("packets: the golden tokens do not pack to the golden bytes")
    return tuple(failures)


def flip_gap(
    latents: NDArray[np.float32],
    codebooks: NDArray[np.float32],
    wanted: tuple[NDArray[Any], NDArray[Any]],
    found: tuple[NDArray[Any], NDArray[Any]],
) -> float:
    """The largest relative gap of all differing selections; 0 when all agree.

    A group that differs counts (E_found - E_wanted) / E_wanted of the whole-image errors; a token that differs
    inside the same group counts the difference of its squared distances over the mean squared token norm.
    """
    worst = 0.0
    scale = float(np.square(latents).sum(2).mean())
    for z, m, row, n, other in zip(latents, *wanted, *found, strict=True):
        if m == n and np.array_equal(row, other):
            continue
        power = np.square(z, dtype=np.float64).sum(1)  # (T,)
        table = distances(z[None], codebooks[m])[0]
        if m != n:
            ours, theirs = (
                power.sum() + table.min(1).sum(),
                power.sum() + distances(z[None], codebooks[n])[0].min(1).sum(),
            )
            worst = max(worst, abs(theirs - ours) / max(ours, 1e-12))
            continue
        tokens = np.arange(len(row))
        worst = max(worst, float(np.abs(table[tokens, row] - table[tokens, other]).max()) / scale)
    return worst
