"""Classical codecs at a byte budget, each given its best scale and quality for the picture at hand."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, features

from ..errors import BackendMissing, StcqError
from .containers import codestream_bytes

SCALES = (1.0, 0.75, 0.5, 0.375, 0.25, 0.1875, 0.125, 0.0625)
QUALITIES = (1, 3, 5, 8, 12, 18, 25, 35, 50, 70, 90)


@dataclass(frozen=True)
class Format:
    """How Pillow writes one codec.

    Attributes:
        title: for people.
        pillow: Pillow's format name.
        feature: Pillow's feature or the plugin module that it needs.
        options: the settings that make the smallest files.
    """

    title: str
    pillow: str
    feature: str
    options: dict[str, Any]


FORMATS = {
    "jpeg": Format("JPEG", "JPEG", "jpg", {"optimize": True, "subsampling": "4:2:0"}),
    "webp": Format("WebP", "WEBP", "webp", {"method": 6}),
    "avif": Format("AVIF", "AVIF", "avif", {"speed": 6}),
    "jpeg2000": Format("JPEG 2000", "JPEG2000", "jpg_2000", {"no_jp2": True, "irreversible": True}),
    "jxl": Format("JPEG XL", "JXL", "pillow_jxl", {"effort": 7}),
}


@dataclass(frozen=True)
class Encoding:
    """One file that a codec wrote for a picture.

    Attributes:
        codec: a name from FORMATS.
        scale, quality: of the picture inside.
        content: the file's bytes.
        size: (width, height) of the picture.
    """

    codec: str
    scale: float
    quality: int
    content: bytes
    size: tuple[int, int]

    @property
    def codestream(self) -> int:
        """Bytes of compressed data alone, without the container's and the tables' headers."""
        return codestream_bytes(self.codec, self.content)

    def image(self) -> Image.Image:
        """Decoded and brought back to the picture's size, RGB."""
        with Image.open(io.BytesIO(self.content)) as stored:
            return stored.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)


def available() -> list[str]:
    """The peers that this Pillow can write."""
    return [name for name in FORMATS if _has(FORMATS[name])]


def _has(form: Format) -> bool:
    """Whether Pillow, with its plugins, can write a format."""
    if form.feature == "pillow_jxl":
        try:
            importlib.import_module(form.feature)
        except ModuleNotFoundError:
            return False
        return True
    return form.feature == "jpg" or bool(features.check(form.feature))


def require(codecs: list[str]) -> None:
    """Check that all codecs of a list can be written.

    Raises:
        StcqError: an unknown name.
        BackendMissing: this Pillow lacks one.
    """
    if unknown := sorted(set(codecs) - set(FORMATS)):
        raise StcqError(f"peer {unknown[0]!r} is unknown; use some of {', '.join(FORMATS)}")
    if missing := sorted(set(codecs) - set(available())):
        raise BackendMissing(f"this Pillow cannot write {missing[0]}; run: pip install 'stcq[eval]'")


def encodings(codec: str, picture: Image.Image) -> list[Encoding]:
    """All files that a codec writes for a picture over SCALES and QUALITIES."""
    found = []
    for scale in SCALES:
        width, height = (max(1, round(side * scale)) for side in picture.size)
        small = picture.resize((width, height), Image.Resampling.LANCZOS)
        found += [Encoding(codec, scale, q, write(small, codec, q), picture.size) for q in QUALITIES]
    return found


def best(
    found: list[Encoding], budget: int, score: Callable[[Image.Image], float]
) -> tuple[Encoding, Image.Image, bool]:
    """The best file within a budget of bytes.

    At each scale the largest file that fits competes; if none fits, the smallest file of all is taken.

    Args:
        found: from `encodings`.
        budget: bytes of the whole file.
        score: of a decoded picture, higher is better.

    Returns:
        The file, its picture, and whether it fits.
    """
    fitting: dict[float, Encoding] = {}
    for one in found:
        if len(one.content) <= budget and len(one.content) >= len(fitting.get(one.scale, one).content):
            fitting[one.scale] = one
    if not fitting:
        smallest = min(found, key=lambda one: len(one.content))
        return smallest, smallest.image(), False
    images = [one.image() for one in fitting.values()]
    winner = int(np.argmax([score(image) for image in images]))
    return list(fitting.values())[winner], images[winner], True


def write(image: Image.Image, codec: str, quality: int) -> bytes:
    """One file's bytes; JPEG 2000 takes a compression rate instead of a quality."""
    form, buffer = FORMATS[codec], io.BytesIO()
    if codec == "jpeg2000":
        levels = max(0, min(5, min(image.size).bit_length() - 3))
        rate = {"quality_mode": "rates", "quality_layers": [1000 / quality], "num_resolutions": levels + 1}
        image.save(buffer, form.pillow, **form.options, **rate)
        return without_comment(buffer.getvalue())
    image.save(buffer, form.pillow, quality=quality, **form.options)
    return buffer.getvalue()


def without_comment(codestream: bytes) -> bytes:
    """A JPEG 2000 codestream without the 37 bytes in which OpenJPEG names itself."""
    start = codestream.find(b"\xff\x64")
    if start < 0 or b"OpenJPEG" not in codestream[start : start + 64]:
        return codestream
    length = int.from_bytes(codestream[start + 2 : start + 4])
    return codestream[:start] + codestream[start + 2 + length :]


def psnr(a: Image.Image, b: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB images of one size, in dB."""
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    return float(10 * np.log10(255**2 / max(1e-9, np.square(difference).mean())))
