"""`stcq demo`: the embedded face through the embedded bundle, beside what classical codecs do with the bytes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..runtime.codec import Codec
from ..runtime.demo_face import demo_face
from ..runtime.files import replace_file
from .peers import FORMATS, available, best, encodings, psnr

ZOOM, MARGIN, CAPTION = 2, 8, 44


@dataclass(frozen=True)
class Demo:
    """What the demo measured.

    Attributes:
        payload_bytes, packet_bytes: bytes of the face, without and with the frame of 9 bytes.
        bits_per_pixel: payload bits over the codec's S x S pixels.
        encode_ms, decode_ms: medians of 20 calls, whole call from array to bytes and back.
        psnr: dB.
        peers: (codec, bytes, PSNR in dB) of the classical codecs.
        picture: the PNG written.
    """

    payload_bytes: int
    packet_bytes: int
    bits_per_pixel: float
    encode_ms: float
    decode_ms: float
    psnr: float
    peers: tuple[tuple[str, int, float], ...]
    picture: Path

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self) | {"picture": str(self.picture)}

    def summary(self) -> str:
        """The figures as lines for people."""
        lines = [
            f"{self.payload_bytes} bytes of face in a packet of {self.packet_bytes} "
            f"({self.bits_per_pixel:.4f} bits per pixel)",
            f"encode {self.encode_ms:.1f} ms, decode {self.decode_ms:.1f} ms, {self.psnr:.1f} dB",
            "classical codecs with as many bytes, or the fewest they can manage:",
        ]
        lines += [
            f"  {FORMATS[codec].title:10} {size:4} bytes  {quality:.1f} dB" for codec, size, quality in self.peers
        ]
        return "\n".join([*lines, f"wrote {self.picture}"])


def demo(codec: Codec, out: Path) -> Demo:
    """Encode and decode the embedded face and write the comparison picture.

    Raises:
        OSError: `out` cannot be written.
    """
    size, info = codec.info.image_size, codec.info
    face = demo_face().resize((size, size), Image.Resampling.BICUBIC)
    packet = codec.encode(face)
    decoded = Image.fromarray(codec.decode(packet))
    names = [name for name in available() if name != "jxl"]  # every Pillow has the others
    peers = [best(encodings(name, face), len(packet), lambda image: psnr(face, image)) for name in names]
    panels = [("original", f"{size * size * 3:,} bytes raw", face)]
    panels += [("stcq", f"{len(packet)} bytes ({info.payload_bytes} + 9)", decoded)]
    panels += [
        (FORMATS[one.codec].title, f"{len(one.content)} bytes" + ("" if fits else " (fewest)"), image)
        for one, image, fits in peers
    ]
    sheet = draw(panels)
    replace_file(out, lambda path: sheet.save(path, "PNG"))
    return Demo(
        payload_bytes=info.payload_bytes,
        packet_bytes=len(packet),
        bits_per_pixel=codec.bundle.manifest.codec.packets.payload_bits / size**2,
        encode_ms=_median_ms(lambda: codec.encode(face)),
        decode_ms=_median_ms(lambda: codec.decode(packet)),
        psnr=psnr(face, decoded),
        peers=tuple((one.codec, len(one.content), psnr(face, image)) for one, image, _ in peers),
        picture=out,
    )


def draw(panels: list[tuple[str, str, Image.Image]]) -> Image.Image:
    """Panels side by side, each with a title and a line under it."""
    width, height = (side * ZOOM for side in panels[0][2].size)
    sheet = Image.new("RGB", (len(panels) * (width + MARGIN) + MARGIN, height + CAPTION + MARGIN), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for number, (title, line, image) in enumerate(panels):
        left = MARGIN + number * (width + MARGIN)
        sheet.paste(image.resize((width, height), Image.Resampling.BICUBIC), (left, MARGIN))
        pen.text((left + 2, height + MARGIN + 4), title, "black", font)
        pen.text((left + 2, height + MARGIN + 22), line, "#555555", font)
    return sheet


def _median_ms(call: Callable[[], Any], runs: int = 20) -> float:
    """Median milliseconds of a call after three to warm up."""
    times = []
    for _ in range(runs + 3):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[3:])
