"""Static entropy tables: how often each code comes in each (group, token), and whether knowing it shortens packets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from ..errors import CalibrationError
from ..evaluation.means import Mean
from ..runtime.bundle import Bundle
from ..runtime.codec import Codec
from ..runtime.entropy import TOTAL, EntropyFormat
from ..runtime.listing import list_files
from ..runtime.manifest import TABLES
from ..runtime.packet import TAG, TAIL
from ..runtime.switching import Switching
from .pictures import Pictures, open_pictures
from .writing import changed, check_writable, write

LEAST_SAVING = 0.03
PRIOR = 4.0  # the token's frequencies over all groups count as so many pictures for each code
MOST_CODES = TOTAL // 4

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Entropy:
    """What tables save on held-out faces.

    Attributes:
        bundle: the folder.
        faces, held_out_faces: counted, and measured on.
        plain: payload bytes without tables.
        coded: mean payload bytes with them.
        saving: 1 - coded / plain.
        kept: whether the tables are in the bundle: when they save LEAST_SAVING.
    """

    bundle: Path
    faces: int
    held_out_faces: int
    plain: int
    coded: Mean
    saving: float
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self) | {"bundle": str(self.bundle)}

    def summary(self) -> str:
        """One line."""
        verdict = "kept" if self.kept else f"refused: less than {LEAST_SAVING:.0%}"
        return (
            f"payload {self.plain} -> {self.coded} bytes, {self.saving:.2%} less, on {self.held_out_faces} held-out "
            f"faces (tables of {self.faces}): {verdict}"
        )


def add_tables(
    path: Path,
    images: Path,
    *,
    held_out: Path | None = None,
    crop: float = 1.0,
    limit: int = 2000,
    held_out_limit: int = 1000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Entropy:
    """Count codes on pictures and add the tables to a bundle if they shorten held-out faces' payloads enough.

    The payloads that are measured are those of the range coder itself. Pictures as for `calibrate`.

    Raises:
        CalibrationError: the bundle or the pictures cannot be used.
        BundleError: the bundle is damaged.
        ImageError: no pictures.
    """
    check_writable(path)
    bundle = Bundle(path)
    bundle.verify_files()
    codec = bundle.manifest.codec
    if codec.codes > MOST_CODES or codec.groups > MOST_CODES:
        raise CalibrationError(
            f"tables hold at most {MOST_CODES} codes a book and {MOST_CODES} groups, this model has "
            f"{codec.codes} codes and {codec.groups} groups; use plain packets"
        )
    pictures = open_pictures(
        images, codec.image_size, held_out=held_out, crop=crop, limit=limit, held_out_limit=held_out_limit, seed=seed
    )
    progress(f"counting codes in {len(pictures.names)} pictures")
    with Codec(bundle, policy="nn") as opened:
        groups, codes = count(tokens_of(opened, pictures), codec.switching, codec.codes)
        tables = frequencies(groups + 1.0), frequencies(smoothed(codes))
        layout = EntropyFormat(codec.packets, *tables, codec.switching)
        progress(f"coding {len(pictures.held_out.images)} held-out faces")
        packets = layout.pack(*opened.tokens_batch(list(pictures.held_out.images)))
    sizes = Mean.of([float(len(packet) - 1 - TAG - TAIL) for packet in packets], pictures.held_out.people)
    plain = codec.packets.payload_bytes
    saving = 1 - sizes.value / plain
    result = Entropy(path, int(groups.sum()), len(packets), plain, sizes, saving, saving >= LEAST_SAVING)
    if result.kept:
        _write(bundle, layout, result)
    return result


def tokens_of(codec: Codec, pictures: Pictures) -> Iterator[tuple[Counts, Counts]]:
    """Group (B,) and indices (B, T) of calibration pictures, a batch at a time."""
    for images in pictures.batches():
        group, indices = codec.tokens_batch(list(images))
        yield group.astype(np.int64), indices.astype(np.int64)


def count(
    batches: Iterator[tuple[Counts, Counts]], switching: Switching, codes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How often each group (M,) and each code in a set of books (V, T, K) was chosen."""
    tokens = switching.tokens
    group_counts = np.zeros(switching.groups, np.int64)
    code_counts = np.zeros((switching.sets, tokens, codes), np.int64)
    for group, indices in batches:
        np.add.at(group_counts, group, 1)
        np.add.at(code_counts, (switching.expand(group, indices), np.arange(tokens), indices), 1)
    return group_counts, code_counts


def smoothed(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Expected frequencies (V, T, K): a set's counts with its token's over all sets as the prior."""
    whole = counts.sum(0) + 0.5  # (T, K)
    prior = whole / whole.sum(-1, keepdims=True)
    result: NDArray[np.float64] = counts + PRIOR * counts.shape[-1] * prior
    return result


def frequencies(weights: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Weights (..., K) as integers of at least 1 that add up to 2^16 in each row, by the largest remainders."""
    room = TOTAL - weights.shape[-1]
    exact = weights / weights.sum(-1, keepdims=True) * room
    whole = np.floor(exact).astype(np.int64)
    missing = room - whole.sum(-1, keepdims=True)
    rank = np.argsort(np.argsort(whole - exact, axis=-1, kind="stable"), axis=-1, kind="stable")
    result: NDArray[np.int64] = whole + (rank < missing) + 1
    return result


def _write(bundle: Bundle, layout: EntropyFormat, result: Entropy) -> None:
    """Put the tables into the bundle."""
    with changed(bundle) as folder:
        tensors = {"groups": layout.groups, "codes": layout.codes}
        (folder / TABLES).unlink(missing_ok=True)  # perhaps another name of the old bundle's file
        save_file({name: (value - 1).astype(np.uint16) for name, value in tensors.items()}, folder / TABLES)
        facts = bundle.manifest.provenance | {"entropy": result.to_dict() | {"bundle": bundle.manifest.name}}
        write(bundle.manifest._replace(files=list_files(folder), provenance=facts), folder)
