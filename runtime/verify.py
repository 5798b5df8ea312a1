"""The golden self-test: does this machine compute the codec that was exported? Needs no torch.

Margin-aware: a token that differs is harmless when the two codewords are equally near, so every difference is
reported with its distance gap, and only gaps above the tolerance fail.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .choose import is_exact_here
from .codec import Codec
from .flips import Flip, find_flips
from .graphs import faces_at_once

Arrays = dict[str, NDArray[Any]]
PIXEL_SHARE = 0.999
MOST_FLIPS = 20  # kept in a report, largest gap first
SHOWN_FLIPS = 5  # of them in a report's text


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


def verify(codec: Codec, reference: Mapping[str, NDArray[Any]] | None = None) -> Report:
    """Compare a codec with reference results.

    Args:
        codec: the open codec; its `nn` graphs are tested whatever its policy.
        reference: images (N, S, S, 3) uint8, latents (N, T, d) float32, group (N,), indices (N, T), packets
            (N, P + 9) uint8, outputs (N, S, S, 3) uint8, and optionally scores (N, M) float32; None = the
            bundle's golden set, after checking all files.

    Raises:
        BundleError: a file of the bundle is damaged.
    """
    if reference is None:
        codec.bundle.verify_files()
        reference = codec.bundle.golden()
    wanted = (np.asarray(reference["group"]), np.asarray(reference["indices"]))
    measured = codec.variant.details.get("tolerance")  # int8 variants bring their own, from their calibration
    try:
        limits = Tolerance(**measured) if measured else TOLERANCES.get(codec.variant.precision, TOLERANCES["fp16"])
    except TypeError:
        name = f"{codec.bundle.source}: {codec.variant.name}"
        raise BundleError(f"{name} has a tolerance that this stcq does not know; calibrate it again") from None
    return compare(codec, reference, wanted, limits)


def compare(
    codec: Codec, reference: Mapping[str, NDArray[Any]], wanted: tuple[NDArray[Any], NDArray[Any]], limits: Tolerance
) -> Report:
    """`verify` with its limits as an argument."""
    images, latents = np.asarray(reference["images"]), np.asarray(reference["latents"])
    found = run_graphs(codec, images, wanted)
    packets = codec.bundle.manifest.codec.packets
    stored = [row.tobytes() for row in np.asarray(reference["packets"])]
    unpacked = packets.unpack(stored)
    packets_equal = packets.pack(*wanted) == stored and all(
        np.array_equal(a, b) for a, b in zip(unpacked, wanted, strict=True)
    )
    group, indices = found["group"], found["indices"]
    books, switching = codec.bundle.codebooks, codec.bundle.manifest.codec.switching
    found_flips = [
        flip
        for tokens in ((group, indices), (found["split_group"], found["split_indices"]))
        for flip in find_flips(latents, books, wanted, tokens, switching)
    ]
    flips = sorted(dict.fromkeys(found_flips), key=lambda flip: -flip.gap)  # one that both ways have counts once
    pixels = np.abs(found["outputs"].astype(int) - np.asarray(reference["outputs"]))
    same = switching.expand(group, indices) == switching.expand(*wanted)  # (N, T)
    figures: dict[str, Any] = {
        "variant": codec.variant.name,
        "faces": len(images),
        "latent_difference": relative_difference(found["latents"], latents),
        "token_agreement": float((indices == wanted[1])[same].mean()) if same.any() else 0.0,
        "group_agreement": float(same.mean()),
        "packet_agreement": float((same & (indices == wanted[1])).all(1).mean()),
        "largest_gap": flips[0].gap if flips else 0.0,
        "flips": tuple(flips[:MOST_FLIPS]),
        "router_difference": relative_difference(found["scores"], scores)
        if (scores := reference.get("scores")) is not None and "scores" in found
        else None,
        "pixel_share": float((pixels <= limits.levels).mean()),
        "largest_pixel": int(pixels.max()),
        "psnr": psnr(found["outputs"], np.asarray(reference["outputs"])),
        "packets_equal": packets_equal,
    }
    failures = _failures(figures, limits)
    if failures and not is_exact_here(codec.variant):
        failures += ("this CPU lacks what the variant's 8-bit sums need (calibration.needs); use variant onnx-fp32",)
    return Report(**figures, failures=failures)


def run_graphs(codec: Codec, images: NDArray[np.uint8], tokens: tuple[NDArray[Any], NDArray[Any]]) -> Arrays:
    """Run every graph of a codec's variant on images (N, S, S, 3) and reference tokens, some rows at a time.

    Returns:
        latents; group, indices of the tokenizer; split_group, split_indices of encoder and quantizer, or of encoder and
        search where the runtime searches the codebooks itself; scores; outputs.
    """
    pieces: list[Arrays] = []
    step = faces_at_once(images.shape[1])
    for start in range(0, len(images), step):
        rows = slice(start, start + step)
        piece = codec.run("encoder", {"image": images[rows]})
        split = codec.run("quantizer", {"latents": piece["latents"]})
        piece |= codec.run("tokenizer", {"image": images[rows]}) if "tokenizer" in codec.variant.graphs else split
        if codec.selection.searches:  # what this codec encodes with in the graph's place
            split = dict(zip(("group", "indices"), codec.selection.search.select(piece["latents"]), strict=True))
        piece |= {f"split_{name}": array for name, array in split.items()}
        if "router" in codec.variant.graphs:
            piece |= codec.run("router", {"latents": piece["latents"]})
        feeds = {"group": np.asarray(tokens[0][rows]), "indices": np.asarray(tokens[1][rows])}
        piece["outputs"] = codec.run("decoder", feeds)["image"]
        pieces.append(piece)
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def relative_difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Largest absolute difference in units of the wanted values' RMS; infinite when something is not a number."""
    worst = float(np.abs(found.astype(np.float64) - wanted).max())
    scale = float(np.sqrt(np.square(wanted, dtype=np.float64).mean()))
    return worst / max(scale, 1e-12) if np.isfinite(worst) else float("inf")


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float | None:
    """PSNR in dB over all values of two stacks of images; None when they are equal."""
    error = float(np.square(one.astype(np.float64) - other).mean())
    return 10 * float(np.log10(255**2 / error)) if error else None


def _failures(figures: Mapping[str, Any], limits: Tolerance) -> tuple[str, ...]:
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
