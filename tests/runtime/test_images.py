"""Any picture in: the right 128 x 128 RGB array, or a one-line ImageError."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq.errors import ImageError
from stcq.runtime.images import open_image, prepare, to_rgb

SIZE = 128


def saved(tmp_path: Path, image: Image.Image, name: str, **options: object) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_the_right_size_is_left_alone(face: np.ndarray) -> None:
    assert np.array_equal(prepare(face, SIZE), face)
    assert np.array_equal(prepare(Image.fromarray(face), SIZE), face)


def test_png_file_equals_array(face: np.ndarray, tmp_path: Path) -> None:
    assert np.array_equal(prepare(open_image(saved(tmp_path, Image.fromarray(face), "a.png")), SIZE), face)


def test_grey_and_single_channel(face: np.ndarray) -> None:
    grey = face[..., 1]
    expected = np.repeat(grey[..., None], 3, 2)
    for image in (grey, grey[..., None], Image.fromarray(grey), Image.fromarray(grey).convert("LA")):
        assert np.array_equal(prepare(image, SIZE), expected)


def test_alpha_is_laid_over_white(face: np.ndarray) -> None:
    alpha = np.full((SIZE, SIZE, 1), 255, np.uint8)
    alpha[:64] = 0
    found = prepare(np.concatenate([face, alpha], 2), SIZE)
    assert (found[:64] == 255).all()
    assert np.array_equal(found[64:], face[64:])


def test_palette_with_transparency() -> None:
    image = Image.new("P", (SIZE, SIZE), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.info["transparency"] = 0
    assert (prepare(image, SIZE) == 255).all()


def test_sixteen_bits_keep_the_high_byte(face: np.ndarray, tmp_path: Path) -> None:
    deep = face[..., 0].astype(np.uint16) * 257
    expected = np.repeat(face[..., :1], 3, 2)
    assert np.array_equal(prepare(deep, SIZE), expected)
    assert np.array_equal(prepare(open_image(saved(tmp_path, Image.fromarray(deep), "deep.png")), SIZE), expected)
    assert np.array_equal(prepare(face.astype(np.uint16) * 257, SIZE), face)


def test_cmyk(face: np.ndarray, tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(face).convert("CMYK"), "print.jpg", quality=98)
    difference = np.abs(prepare(open_image(path), SIZE).astype(int) - face)
    assert difference.mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(face: np.ndarray, tmp_path: Path, orientation: int) -> None:
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](face)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "turned.png", exif=exif)
    assert np.array_equal(prepare(open_image(path), SIZE), face)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (2000, 3), (128, 129), (480, 640)])
def test_any_size(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 77, np.uint8)
    found = prepare(image, SIZE)
    assert found.shape == (SIZE, SIZE, 3)
    assert found.dtype == np.uint8
    assert (found == 77).all()


def test_twenty_thousand_pixels_wide() -> None:
    image = np.zeros((200, 20_000, 3), np.uint8)
    image[:, 9_900:10_100] = 200
    assert (prepare(image, SIZE)[4:-4, 4:-4] == 200).all()


def test_the_crop_is_the_centred_square(face: np.ndarray) -> None:
    wide = np.concatenate([np.zeros((SIZE, 40, 3), np.uint8), face, np.zeros((SIZE, 40, 3), np.uint8)], 1)
    assert np.abs(prepare(wide, SIZE).astype(int) - face).max() <= 1


def test_downscaling_antialiases() -> None:
    checks = (np.indices((1024, 1024)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.abs(prepare(checks, SIZE).astype(int) - 127).max() <= 12


@pytest.mark.parametrize(
    ("array", "fix"),
    [
        (np.zeros((4, 4, 3), np.float32), "uint8"),
        (np.zeros((4, 4, 2), np.uint8), "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros(4, np.uint8), "shape"),
        ("face.png", "PIL image"),
        (None, "PIL image"),
    ],
)
def test_other_arrays_are_refused(array: object, fix: str) -> None:
    with pytest.raises(ImageError, match=fix):
        prepare(array, SIZE)


def test_unusable_files(face: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        open_image(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="no picture"):
        open_image(tmp_path / "text.png")
    with pytest.raises(ImageError, match="cannot be read"):
        open_image(tmp_path)
    for suffix in ("png", "jpg", "webp"):
        buffer = io.BytesIO()
        Image.fromarray(face).save(buffer, {"jpg": "JPEG"}.get(suffix, suffix))
        with pytest.raises(ImageError):
            open_image(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def test_too_many_pixels(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("1", (20_000, 20_000)), "huge.png")
    with pytest.raises(ImageError, match="million pixels"):
        open_image(path)


def test_damaged_exif_does_not_cost_the_picture(face: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=95, exif=exif)
    content = buffer.getvalue()
    place = content.index(b"\x1a\x01" if b"II*\0" in content else b"\x01\x1a")
    kind = b"\x02\x00" if b"II*\0" in content else b"\x00\x02"  # ASCII where a number should stand
    damaged = content[: place + 2] + kind + content[place + 4 :]
    for turned in (content, damaged):
        assert np.array_equal(to_rgb(open_image(turned)), np.rot90(np.asarray(Image.open(buffer)), -1))
    place = content.index(b"\x12\x01" if b"II*\0" in content else b"\x01\x12")
    damaged = content[: place + 2] + kind + content[place + 4 :]
    assert to_rgb(open_image(damaged)).size == face.shape[:2]


def test_whatever_a_decoder_raises_is_an_image_error(face: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "PNG")
    for error in (RuntimeError("Failed to decode frame 0"), NotImplementedError(), struct.error("short")):

        def fail(self: Image.Image, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
        with pytest.raises(ImageError, match="cannot be read"):
            open_image(buffer.getvalue())


def test_pictures_that_pillow_cannot_convert_are_refused(face: np.ndarray) -> None:
    image = Image.fromarray(face).convert("LA").convert("La")
    for odd in (image, Image.fromarray(face)):
        odd.info["transparency"] = b"\0\1"
        with pytest.raises(ImageError, match="cannot be converted"):
            prepare(odd, SIZE)
