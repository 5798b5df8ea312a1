"""Tiny configurations of every published tokenizer, with seeded random weights under the official names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from stcq.models.backbones import PRETRAINED
from stcq.models.backbones.base import Pretrained

CONVOLUTIONAL = {"image_size": 16, "tokens": 16, "dim": 6, "channels": 32, "mult": [1, 1, 2], "blocks": 1, "codes": 12}
TINY: dict[str, dict[str, Any]] = {
    "maskgit_vqgan": CONVOLUTIONAL,
    "taming_vqgan": CONVOLUTIONAL | {"attention": [4], "z_channels": 5},
    "codeformer": CONVOLUTIONAL | {"attention": [4], "blocks": 2},
    "titok": {
        "image_size": 16,
        "tokens": 6,
        "dim": 5,
        "codes": 9,
        "patch": 4,
        "width": 64,
        "layers": 2,
        "heads": 1,
        "decoder_width": 128,
        "decoder_layers": 1,
        "decoder_heads": 2,
        "pixel_codes": 11,
        "pixel_dim": 7,
        "pixel_channels": 32,
        "pixel_mult": [1, 1, 2],
        "pixel_blocks": 1,
    },
}
TINY["titok pixels"] = {k: v for k, v in TINY["titok"].items() if not k.startswith("pixel")} | {
    "legacy": False,
    "l2_norm": False,
}


def tokenizer(name: str, seed: int = 0) -> Pretrained:
    """A tokenizer whose biases and norms do something too."""
    torch.manual_seed(seed)
    made = PRETRAINED[name.partition(" ")[0]](**TINY[name]).eval()
    for parameter in made.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn_like(parameter)
    made.get_parameter("quantize.embedding.weight").data.normal_()
    return made


def weights(name: str, path: Path, seed: int = 0) -> Path:
    """A weight file as the official projects publish them."""
    save_file(tokenizer(name, seed).state_dict(), path)
    return path
