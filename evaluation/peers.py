"""Classical codecs at a byte budget, each given its best scale and quality for the picture at hand."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)
QUALITIES = (1, 3, 5, 8, 12, 18, 25, 35, 50, 70)
FORMATS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "jpeg": ("JPEG", "jpg", {"optimize": True, "subsampling": "4:2:0"}),
    "webp": ("WEBP", "webp", {"method": 6}),
    "avif": ("AVIF", "avif", {"speed": 6}),
    "jpeg2000": ("JPEG2000", "jpg_2000", {"no_jp2": True, "irreversible": True}),
}


@dataclass(frozen=True)
class Peer:
    """What a classical codec made of a picture.

    Attributes:
        codec: a name from FORMATS.
        image: decoded and brought back to the picture's size.
        size: bytes of its file.
        fits: whether that is within the budget; if not, it is the smallest file the codec can write.
        psnr: dB over all colour values.
    """

    codec: str
    image: Image.Image
    size: int
    fits: bool
    psnr: float


def available() -> list[str]:
    """The peers that this Pillow can write."""
    return [name for name, (_, feature, _) in FORMATS.items() if feature == "jpg" or features.check(feature)]


def best(codec: str, picture: Image.Image, budget: int) -> Peer:
    """The best PSNR that a codec reaches within `budget` bytes, else its smallest file.

    Args:
        codec: a name from `available()`.
        picture: an RGB image.
        budget: bytes of the whole file.
    """
    format_name, _, options = FORMATS[codec]
    fitting: Peer | None = None
    smallest: Peer | None = None
    for scale in SCALES:
        small = picture.resize(tuple(max(1, round(n * scale)) for n in picture.size), Image.Resampling.LANCZOS)  # type: ignore[arg-type]
        for quality in QUALITIES:
            content = _write(small, format_name, quality, options)
            if len(content) > budget and smallest is not None and len(content) >= smallest.size:
                continue
            image = Image.open(io.BytesIO(content)).convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
            peer = Peer(codec, image, len(content), len(content) <= budget, psnr(picture, image))
            if peer.fits and (fitting is None or peer.psnr > fitting.psnr):
                fitting = peer
            if smallest is None or peer.size < smallest.size:
                smallest = peer
    assert smallest is not None  # SCALES and QUALITIES are not empty
    return fitting or smallest


def _write(image: Image.Image, format_name: str, quality: int, options: dict[str, Any]) -> bytes:
    """One file's bytes; JPEG 2000 takes a compression rate instead of a quality."""
    buffer = io.BytesIO()
    if format_name == "JPEG2000":
        levels = max(0, min(5, min(image.size).bit_length() - 3))
        rate = {"quality_mode": "rates", "quality_layers": [2400 / quality], "num_resolutions": levels + 1}
        image.save(buffer, format_name, **options, **rate)
    else:
        image.save(buffer, format_name, quality=quality, **options)
    return buffer.getvalue()


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB images of one size, in dB."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(10 * np.log10(255**2 / max(1e-9, np.square(difference).mean())))
