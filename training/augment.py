"""Random changes of training pictures: moved, lit, bent, and blended with another person's.

Ten thousand people are few: a codec learns their identities by heart. Bent and blended faces are people whom it has
not met. Blending is the idea of mixup (Zhang et al. 2018), here with weights that vary over the face.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from .options import DataOptions

CELLS = 4  # of the mesh that bends a picture, along each side
PATCHES = 3  # of a blend, along each side
Mesh = tuple[tuple[int, int, int, int], tuple[float, ...]]  # a box of the target and its corners in the source


def augment(image: Image.Image, size: int, options: DataOptions, rng: np.random.Generator | None) -> Image.Image:
    """Cut the face crop, moved, bent and lit at random when rng is given, and bring it to (size, size)."""
    side = min(image.size) * options.crop
    cx, cy, angle, zoom, flip = image.width / 2, image.height / 2, 0.0, 1.0, False
    if rng is not None:
        cx, cy = cx + side * rng.uniform(-1, 1) * options.shift, cy + side * rng.uniform(-1, 1) * options.shift
        angle = math.radians(rng.uniform(-1, 1) * options.rotate)
        zoom = 1 + rng.uniform(-1, 1) * options.zoom
        flip = bool(rng.random() < 0.5)
    if side > 1.5 * size:  # an affine transform does not antialias
        shrink = size / side
        smaller = (round(image.width * shrink), round(image.height * shrink))
        image = apart(image, lambda part: part.resize(smaller, Image.Resampling.LANCZOS))
        cx, cy, side = cx * shrink, cy * shrink, float(size)
    scale = side * zoom / size
    a, b = scale * math.cos(angle), scale * math.sin(angle)
    mirror = -1 if flip else 1
    half = size / 2
    matrix = (a * mirror, b, cx - a * mirror * half - b * half, -b * mirror, a, cy + b * mirror * half - a * half)
    method: Image.Transform = Image.Transform.AFFINE
    data: tuple[float, ...] | list[Mesh] = matrix
    if rng is not None and options.warp:
        method, data = Image.Transform.MESH, bent(size, np.reshape(matrix, (2, 3)), side * options.warp, rng)
    image = apart(image, lambda part: part.transform((size, size), method, data, Image.Resampling.BICUBIC))
    return light(image, options.light, rng) if rng is not None and options.light else image


def apart(image: Image.Image, change: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """A change of RGB and alpha each for itself: Pillow would blacken what lies under an alpha of 0."""
    if image.mode != "RGBA":
        return change(image)
    changed = change(image.convert("RGB"))
    changed.putalpha(change(image.getchannel("A")))
    return changed


def bent(size: int, matrix: NDArray[np.float64], strength: float, rng: np.random.Generator) -> list[Mesh]:
    """Pillow's mesh of the affine transform `matrix` (2, 3), target to source, its points moved by up to `strength`."""
    edges = np.linspace(0, size, CELLS + 1).round().astype(int)
    x, y = np.meshgrid(edges, edges)  # (C + 1, C + 1)
    points = np.stack([x, y, np.ones_like(x)], -1) @ matrix.T  # (C + 1, C + 1, 2)
    points += strength * rng.random() * rng.uniform(-1, 1, points.shape)
    mesh = []
    for row in range(CELLS):
        for column in range(CELLS):
            box = (int(edges[column]), int(edges[row]), int(edges[column + 1]), int(edges[row + 1]))
            corners = points[[row, row + 1, row + 1, row], [column, column, column + 1, column + 1]]
            mesh.append((box, tuple(corners.flatten().tolist())))
    return mesh


def light(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation changed by up to a fraction `strength`; alpha stays."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        rgb = enhance(image.convert("RGB")).enhance(1 + rng.uniform(-1, 1) * strength)
        rgb.putalpha(image.getchannel("A")) if image.mode == "RGBA" else None
        image = rgb
    return image


def blend(image: Image.Image, other: Image.Image, rng: np.random.Generator) -> Image.Image:
    """RGBA of two pictures of one size, mixed by weights that vary smoothly and at random over the face."""
    weights = (255 * rng.uniform(0, 1, (PATCHES, PATCHES))).astype(np.uint8)
    mask = Image.fromarray(weights).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(other.convert("RGBA"), image.convert("RGBA"), mask)
