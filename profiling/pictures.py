"""The picture that is encoded when the user gives none."""

from __future__ import annotations

import io

from PIL import Image

from ..runtime.demo_face import demo_face

SIZE = 256  # what a face fills in a camera's frame, so that resizing has something to do


def example() -> bytes:
    """The embedded face as a JPEG of 256 x 256."""
    written = io.BytesIO()
    demo_face().resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(written, "JPEG", quality=90)
    return written.getvalue()
