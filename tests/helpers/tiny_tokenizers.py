"""Tiny configurations of every published tokenizer, with weights under the official names that anyone can recompute."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from stcq.models.backbones import PRETRAINED
from stcq.models.backbones.base import Pretrained
from torch import Tensor

CONVOLUTIONAL = {"image_size": 16, "tokens": 16, "dim": 6, "channels": 32, "mult": [1, 1, 2], "blocks": 1, "codes": 12}
TITOK = {"image_size": 16, "tokens": 6, "dim": 5, "codes": 9, "patch": 4, "width": 64, "layers": 2, "heads": 1}
TITOK |= {"decoder_width": 128, "decoder_layers": 1, "decoder_heads": 2}
PAINTER = {"codes": 11, "dim": 7, "channels": 32, "mult": [1, 1, 2], "blocks": 1}
TINY: dict[str, dict[str, Any]] = {
    "maskgit_vqgan": CONVOLUTIONAL,
    "taming_vqgan": CONVOLUTIONAL | {"attention": [4], "z_channels": 5},
    "codeformer": CONVOLUTIONAL | {"attention": [4], "blocks": 2},
    "titok": TITOK | {f"pixel_{name}": value for name, value in PAINTER.items()},
    "titok-pixels": TITOK | {"legacy": False, "l2_norm": False},
}


def numbers(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that depend on their names alone; norms near 1, the rest in proportion to what they add up."""
    made = {}
    for name, shape in shapes.items():
        drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            drawn = drawn * np.float32(0.2) + np.float32("norm" in name or ".ln_" in name) * name.endswith("weight")
        elif "embedding" not in name and "token" not in name:
            drawn = drawn / np.float32(np.sqrt(np.prod(shape[1:])))
        made[name] = torch.from_numpy(np.ascontiguousarray(drawn, np.float32))
    return made


def tokenizer(name: str) -> Pretrained:
    """A tiny tokenizer in evaluation mode."""
    made = PRETRAINED[name.partition("-")[0]](**TINY[name]).eval()
    made.load_state_dict(numbers({key: tuple(value.shape) for key, value in made.state_dict().items()}))
    return made


def images(count: int = 2) -> Tensor:
    """(N, 3, 16, 16) in [0, 1]."""
    return torch.from_numpy(np.random.default_rng(7).random((count, 3, 16, 16), np.float32))


def weights(name: str, path: Path) -> Path:
    """A weight file as the official projects publish them."""
    save_file(tokenizer(name).state_dict(), path)
    return path
