"""Augmented pictures: what lies under transparent parts stays, faces bend and mix only as much as was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stcq.errors import TrainingError
from stcq.runtime.sources import open_source
from stcq.training.augment import augment, blend
from stcq.training.data import Faces, square
from stcq.training.options import DataOptions
from stcq.training.recipe import read_recipe
from stcq.training.resident import ResidentFaces

STILL = DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0)


@pytest.fixture
def picture(face: np.ndarray) -> Image.Image:
    """160 x 160 RGBA, its upper third transparent over a face that goes on."""
    image = Image.fromarray(face).resize((160, 160)).convert("RGBA")
    alpha = np.full((160, 160), 255, np.uint8)
    alpha[:50] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


@pytest.mark.parametrize("size", [128, 64])  # 64: shrunk before it is moved
def test_colours_under_transparent_parts_stay(picture: Image.Image, size: int) -> None:
    options = DataOptions(crop=0.8, shift=0.01, zoom=0.02, rotate=2, light=0.05, warp=0.02)
    rng = np.random.default_rng(1)
    opaque = augment(picture.convert("RGB"), size, options, np.random.default_rng(1))
    moved = augment(picture, size, options, rng)
    np.testing.assert_array_equal(np.asarray(moved)[..., :3], np.asarray(opaque))
    assert np.asarray(moved)[: size // 8, :, 3].max() == 0
    assert np.asarray(moved)[-size // 8 :, :, 3].min() == 255


def test_colours_stay_in_the_memory_of_a_device(picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "a.png")
    found = square((tmp_path / "a.png").read_bytes(), 80)
    assert not isinstance(found, str)
    assert found[:3, :20].mean() > 30  # black, were it multiplied by alpha
    shrunk = picture.convert("RGB").resize((80, 80), Image.Resampling.LANCZOS)
    np.testing.assert_allclose(found[:3], np.asarray(shrunk).transpose(2, 0, 1), atol=1)


def test_a_bent_face_moves_by_what_was_asked(face: np.ndarray) -> None:
    """A picture of x coordinates tells where every pixel came from."""
    across = np.broadcast_to(np.arange(160, dtype=np.uint8)[None, :, None], (160, 160, 3))
    image = Image.fromarray(np.ascontiguousarray(across))
    still = np.asarray(augment(image, 128, STILL, None), float)
    options = DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0, warp=0.03)
    largest = 0.0
    for seed in range(20):
        bent = np.asarray(augment(image, 128, options, np.random.default_rng(seed)), float)
        either = (still, still[:, ::-1])  # half of them come mirrored
        largest = max(largest, min(np.abs(bent - one)[8:-8, 8:-8].max() for one in either))
    assert 1.5 < largest <= 0.03 * 128 + 1


def test_blends_lie_between_two_pictures(picture: Image.Image) -> None:
    other = picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    low, high = np.sort(np.stack([np.asarray(picture, int), np.asarray(other, int)]), 0)
    mixed = np.asarray(blend(picture, other, np.random.default_rng(3)), int)
    assert (mixed >= low - 1).all()
    assert (mixed <= high + 1).all()
    assert not np.array_equal(mixed, np.asarray(picture))


@pytest.mark.parametrize("resident", [False, True])
def test_as_many_pictures_are_blended_as_asked(picture: Image.Image, tmp_path: Path, resident: bool) -> None:
    """Of a white and a black picture, blends are grey."""
    for name, value in (("black", 0), ("white", 255)):
        Image.new("RGB", (40, 40), (value, value, value)).save(tmp_path / f"{name}.png")

    def grey(share: float) -> float:
        options = DataOptions(crop=0.8, shift=0, zoom=0, rotate=0, light=0, warp=0.02, blend=share)
        faces = Faces([open_source(tmp_path)], 32, options)
        if resident:
            batches = ResidentFaces(faces, torch.device("cpu")).batches(40, 0, 5, 0)
            found = torch.cat([batch.pictures for batch in batches])
        else:
            found = torch.stack([faces[(0, number % 2, number)].pictures for number in range(200)])
        means = found[:, :3].float().mean((1, 2, 3))
        return float(((means > 10) & (means < 245)).float().mean())

    assert grey(0) == 0
    assert 0.15 < grey(0.6) < 0.45  # half of them meet their like
    assert 0.35 < grey(1) < 0.65


@pytest.mark.parametrize(("name", "value"), [("warp", "much"), ("blend", 2.0), ("light", -0.1)])
def test_impossible_options(tmp_path: Path, name: str, value: object) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"[data]\n{name} = {value!r}\n".replace("'", '"'))
    with pytest.raises(TrainingError, match=rf"r\.toml: \[data\] {name} is .*; give (a number of 0 to 1|something)"):
        read_recipe(recipe)
