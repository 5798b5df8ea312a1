"""Fixtures: pictures of faces that anyone may have, and small bundles."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from stcq.runtime.bundle import EMBEDDED


def varied(face: np.ndarray, rng: np.random.Generator) -> Image.Image:
    """The portrait, shifted, turned, mirrored, darker or lighter, as other pictures of a face would be."""
    picture = Image.fromarray(np.roll(face, rng.integers(-6, 7, 2), (0, 1)))
    picture = picture.rotate(float(rng.uniform(-8, 8)), Image.Resampling.BICUBIC)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = ImageEnhance.Brightness(picture).enhance(float(rng.uniform(0.6, 1.3)))
    return ImageEnhance.Color(picture).enhance(float(rng.uniform(0, 1.4)))


@pytest.fixture(scope="session")
def portraits(tmp_path_factory: pytest.TempPathFactory, face: np.ndarray) -> Path:
    """80 pictures of 40 "people" in folders."""
    folder, rng = tmp_path_factory.mktemp("portraits"), np.random.default_rng(0)
    for number in range(80):
        path = folder / f"p{number // 2:02}" / f"p{number // 2:02}_{number % 2:04}.png"
        path.parent.mkdir(exist_ok=True)
        varied(face, rng).save(path)
    return folder


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 pictures of random pixels."""
    folder, rng = tmp_path_factory.mktemp("noise"), np.random.default_rng(0)
    for number in range(80):
        pixels = rng.integers(0, 256, (128, 128, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


@pytest.fixture
def embedded(tmp_path: Path) -> Path:
    """A copy of the embedded bundle without what a calibration left in it."""
    return shutil.copytree(EMBEDDED, tmp_path / "bundle")


@pytest.fixture
def small(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the small codec's bundle."""
    return shutil.copytree(small_bundle, tmp_path / "small")
