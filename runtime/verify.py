"""The golden self-test: does this machine compute the codec that was exported? Needs no torch.

Margin-aware: a token that differs is harmless when the two codewords are equally near, so every difference is
reported with its distance gap, and only gaps above the tolerance fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .choose import is_exact_here
from .codec import Codec
from .flips import find_flips
from .graphs import faces_at_once
from .verify_report import TOLERANCES, Report, Tolerance, failures_of

Arrays = dict[str, NDArray[Any]]
MOST_FLIPS = 20  # kept in a report, largest gap first


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
    failures = failures_of(figures, limits)
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
