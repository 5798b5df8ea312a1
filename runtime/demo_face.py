"""The embedded face: NASA's public-domain portrait of Eileen Collins, cropped to the face (assets/README.md)."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from .images import open_image

FACE = Path(__file__).parent.parent / "assets" / "face.png"


def demo_face() -> Image.Image:
    """The face as an RGB image, 128 x 128."""
    return open_image(FACE)
