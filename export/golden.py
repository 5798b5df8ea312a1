"""The golden set: pictures that anyone may ship, and what torch makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

from ..models.codec import CodecModel
from ..runtime.codec_section import CodecSection
from ..runtime.demo_face import demo_face
from ..runtime.graphs import faces_at_once
from ..runtime.images import prepare

Arrays = dict[str, NDArray[Any]]


def golden_images(size: int) -> NDArray[np.uint8]:
    """(8, S, S, 3) uint8: the public-domain portrait in six treatments, a gradient and noise."""
    face = demo_face().resize((size, size), Image.Resampling.BICUBIC)
    shift = round(size * 0.04)
    box = (shift, shift, size, size)
    treated = [
        face,
        ImageOps.mirror(face),
        ImageEnhance.Brightness(face).enhance(0.5),
        ImageEnhance.Color(face).enhance(0.0),
        face.crop(box).resize((size, size), Image.Resampling.BICUBIC),
        face.rotate(5, Image.Resampling.BICUBIC),
    ]
    ramp = np.linspace(0, 255, size).astype(np.uint8)
    gradient = np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], ramp[::-1, None]), 2)
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
    return np.stack([*(prepare(image, size) for image in treated), gradient, noise])


@torch.no_grad()
def reference(model: CodecModel, section: CodecSection, images: NDArray[np.uint8]) -> Arrays:
    """What torch computes for images (N, S, S, 3): the arrays that `stcq.runtime.verify` compares with."""
    parts: list[tuple[Any, ...]] = []
    for batch in torch.split(torch.from_numpy(images), faces_at_once(section.image_size)):
        z = model.encode(batch.float().permute(0, 3, 1, 2) / 255)
        m, k = model.codebooks.select(z)
        parts.append((z, m, k, model.reconstruct(m, k), model.router(z)))
    columns: list[NDArray[Any]] = [torch.cat(column).numpy() for column in zip(*parts, strict=True)]
    latents, group, indices, outputs, scores = columns
    packets = section.packets.pack(group, indices)
    return {
        "images": images,
        "latents": latents,
        "group": group.astype(np.int32),
        "indices": indices.astype(np.int32),
        "packets": np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1),
        "outputs": outputs,
        "scores": scores,
    }
