"""The manifest's codec section of a model, and with it the model digest."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from ..models.codec import CodecModel
from ..runtime.codec_section import CodecSection


def section_of(model: CodecModel) -> CodecSection:
    """The codec section: sizes, and hashes of what a decoder depends on."""
    config = model.config
    tensors = model.decoder.state_dict()
    if cutoff := getattr(model.decoder, "cutoff", 0.0):  # changes pictures and is no tensor of the state
        tensors |= {"decoder_cutoff": torch.tensor(cutoff)}
    return CodecSection(
        tokens=config.tokens,
        codes=config.codes,
        groups=config.groups,
        switches=config.switches,
        memory=config.memory,
        memory_sets=config.memory_sets,
        memory_weights=config.memory_weights,
        dim=config.dim,
        image_size=config.image_size,
        backbone=config.backbone,
        codebooks_sha256=_hash_books(model),
        decoder_sha256=hash_tensors(tensors),
    )


def _hash_books(model: CodecModel) -> str:
    """SHA-256 over the (V, T, K, d) little-endian float32 values, book by book: they may be gigabytes."""
    total = hashlib.sha256()
    for group in model.codebooks.full().detach():
        for book in group:
            total.update(np.ascontiguousarray(book.numpy(), "<f4").data)
    return total.hexdigest()


def hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    """SHA-256 over name, shape and little-endian float32 values of tensors in the order of their names."""
    total = hashlib.sha256()
    for key in sorted(tensors):
        if tensors[key].is_floating_point():  # not BatchNorm's step counters
            total.update(f"{key}{list(tensors[key].shape)}".encode())
            total.update(tensors[key].detach().numpy().astype("<f4").tobytes())
    return total.hexdigest()
