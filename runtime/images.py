"""Pictures of any kind in, uint8 RGB (S, S, 3) out. The steps are stated in every manifest as `preprocess`."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ..errors import ImageError

PREPROCESS = {
    "orientation": "EXIF",
    "alpha": "over white",
    "crop": "largest centred square",
    "resize": "Pillow bicubic with antialiasing, reducing_gap 3",
}
TURNS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
Pixels = NDArray[np.uint8]


def open_image(source: Path | BinaryIO | bytes) -> Image.Image:
    """Read a picture file completely.

    Args:
        source: a path, an open binary file or the file's bytes.

    Raises:
        ImageError: missing, no picture, cut short, or more pixels than Pillow's limit.
    """
    name = source if isinstance(source, Path) else "input"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            image.load()
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check the path") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise ImageError(f"{name} has more than {limit} million pixels; make it smaller first") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no picture that Pillow can read; convert it to PNG or JPEG") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything
        raise ImageError(f"{name} cannot be read: {error}; copy it again or convert it to PNG") from error
    return image


def prepare(image: Any, size: int) -> Pixels:
    """Bring any picture to the codec's input.

    Args:
        image: a PIL image of any mode; or an array uint8 / uint16 (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA.
        size: S.

    Returns:
        uint8 RGB (S, S, 3): upright, alpha over white, the largest centred square, resized.

    Raises:
        ImageError: another type or shape.
    """
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == (size, size, 3):
        return np.ascontiguousarray(image)
    picture = to_rgb(image if isinstance(image, Image.Image) else from_array(image))
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    if picture.size != (size, size):
        box = (left, top, left + side, top + side)
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0)
    return np.asarray(picture)


def from_array(array: Any) -> Image.Image:
    """An image array as a PIL image; 16-bit values keep their high byte."""
    if not isinstance(array, np.ndarray):
        raise ImageError(f"image is a {type(array).__name__}; give a uint8 array (H, W, 3) or a PIL image")
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.dtype != np.uint8:
        raise ImageError(f"image array is {array.dtype}; give uint8 values 0..255 (multiply by 255 and convert)")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ImageError(f"image array has shape {array.shape}; give (H, W, 3), (H, W, 4) or (H, W)")
    return Image.fromarray(array)


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB of a PIL image of any mode.

    Raises:
        ImageError: floating-point pixels, or a picture that Pillow cannot convert.
    """
    if image.mode == "F":
        raise ImageError("image has floating-point pixels; convert it to 8 bits first")
    try:
        image = upright(image)
        if image.mode in ("I", "I;16", "I;16L", "I;16B", "I;16N"):
            high = np.asarray(image).clip(0, 65535).astype(np.uint32) >> 8
            return Image.fromarray(high.astype(np.uint8)).convert("RGB")
        if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
            front = image.convert("RGBA")
            return Image.alpha_composite(Image.new("RGBA", front.size, "white"), front).convert("RGB")
        return image if image.mode == "RGB" else image.convert("RGB")
    except (OSError, ValueError, TypeError, SyntaxError) as error:
        raise ImageError(f"image of mode {image.mode} cannot be converted: {error}; convert it to PNG") from error


def upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF says; as stored where that cannot be read.

    Not ImageOps.exif_transpose, which writes the rest of the EXIF anew and fails at a bad tag.
    """
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # damaged EXIF makes Pillow's parsers raise anything
        turn = None
    return image if turn is None else image.transpose(turn)
