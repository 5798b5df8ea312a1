"""How good decoded faces are: PSNR and IDS, per picture and as means with standard errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runtime.codec import Codec
from ..runtime.images import Pixels, open_image, to_rgb
from ..runtime.sources import Source
from .means import Mean, without_nan
from .recognizer import Recognizer

PART = 64  # pictures that are float64 at a time


@dataclass(frozen=True)
class Quality:
    """Figures of a codec on a set of faces.

    Attributes:
        faces: pictures measured.
        payload_bytes, packet_bytes: of each face.
        psnr: dB over RGB values, mean over pictures.
        ids: cosine of the recogniser's embeddings of original and decoded face.
    """

    faces: int
    payload_bytes: int
    packet_bytes: int
    psnr: Mean
    ids: Mean

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        found: dict[str, Any] = without_nan(asdict(self))
        return found


def crop_square(image: Image.Image, size: int, crop: float = 1.0) -> Pixels:
    """The centred square of `crop` times the shorter side, as uint8 RGB (size, size, 3)."""
    rgb = to_rgb(image)
    side = min(rgb.size) * crop
    left, top = (rgb.width - side) / 2, (rgb.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(rgb.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0))


def spaced(count: int, limit: int | None) -> NDArray[np.int64]:
    """Up to `limit` evenly spaced indices of 0 .. count - 1."""
    return np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(np.int64))


def crops(source: Source, size: int, crop: float = 1.0, limit: int | None = None) -> Iterator[Pixels]:
    """Centre crops (size, size, 3) of a source's pictures, evenly spaced when limited."""
    for index in spaced(len(source.names), limit):
        yield crop_square(open_image(source.read(source.names[index])), size, crop)


def psnrs(images: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> NDArray[np.float64]:
    """PSNR in dB of each pair of (N, S, S, 3): 10 log10(255^2 / MSE over all RGB values)."""
    starts = range(0, len(images), PART)
    parts = [np.square(images[n : n + PART].astype(np.float64) - decoded[n : n + PART]).mean((1, 2, 3)) for n in starts]
    result: NDArray[np.float64] = 10 * np.log10(255**2 / np.maximum(np.concatenate([np.zeros(0), *parts]), 1e-9))
    return result


def measure(codec: Codec, images: NDArray[np.uint8], recognizer: Recognizer) -> Quality:
    """Encode and decode images (N, S, S, 3) and compare."""
    decoded = codec.decode_batch(codec.encode_batch(list(images)))
    pairs = zip(images, decoded, strict=True)
    ids = [float(recognizer.embed(a) @ recognizer.embed(b)) for a, b in pairs]
    payload = codec.info.payload_bytes
    return Quality(len(images), payload, payload + 9, Mean.of(psnrs(images, decoded)), Mean.of(ids))
