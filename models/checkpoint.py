"""Checkpoints: a folder with config.json and model.safetensors; nothing pickled."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError
from ..runtime.files import replace_file
from .codec import CodecModel
from .config import CodecConfig

FORMAT = 1


def save(model: CodecModel, folder: Path, provenance: dict[str, Any] | None = None) -> None:
    """Write the model's config and weights; each file appears whole or not at all.

    Args:
        model: the codec to save.
        folder: made if missing.
        provenance: JSON-ready facts to keep beside the weights (data, recipe, metrics).

    Raises:
        CheckpointError: the model holds NaN or infinity; nothing is written.
        OSError: the disk is full or the folder not writable.
    """
    if wrong := not_finite(model.state_dict()):
        raise CheckpointError(f"{wrong} of the model for {folder} holds NaN or infinity; lower the learning rate")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: compact(value.detach().cpu().contiguous()) for name, value in model.state_dict().items()}
    write_tensors(tensors, folder / "model.safetensors")
    document = {"format": FORMAT, "codec": model.config.to_dict(), "provenance": provenance or {}}
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    replace_file(folder / "config.json", lambda path: path.write_text(text))


def write_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors as one safetensors file that appears whole or not at all.

    Raises:
        OSError: the disk is full or the folder not writable, which safetensors has as an error of its own.
    """
    try:
        replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        number = int(found[1]) if found else errno.EIO
        raise OSError(number, os.strerror(number) if found else str(error), str(path)) from error


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor with NaN or infinity in it, if there is one."""
    return next((n for n, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()), None)


def read_config(folder: Path) -> tuple[CodecConfig, dict[str, Any]]:
    """The codec configuration and the provenance of a checkpoint folder.

    Raises:
        CheckpointError: the folder is no checkpoint or comes from a newer stcq.
    """
    path = folder / "config.json"
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is no checkpoint: config.json is missing; give the folder that training wrote"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read, copy the checkpoint again: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("codec"), dict):
        raise CheckpointError(f"{path} has no 'codec' section; give the folder that training wrote")
    if document.get("format") != FORMAT:
        raise CheckpointError(f"{path} has format {document.get('format')!r}, this stcq reads {FORMAT}: upgrade stcq")
    provenance = document.get("provenance", {})
    if not isinstance(provenance, dict):
        raise CheckpointError(f"{path}: provenance is no table; copy the checkpoint again")
    return CodecConfig.from_dict(document["codec"]), provenance


def load(folder: Path) -> CodecModel:
    """Open a checkpoint in evaluation mode on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, or tensors are missing, extra, misshapen, of another kind or not
            finite.
    """
    config, _ = read_config(folder)
    path = folder / "model.safetensors"
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read, copy the checkpoint again: {error}") from error
    # copied, as they are views of a file that may be replaced
    tensors = {n: t.to(torch.float32 if t.is_floating_point() else t.dtype, copy=True) for n, t in found.items()}
    return build(config, tensors, path).eval()


def build(config: CodecConfig, tensors: dict[str, Tensor], path: Path) -> CodecModel:
    """A codec that keeps these very tensors: gigabytes of codebooks are neither drawn at random first nor copied.

    Raises:
        CheckpointError: tensors are missing, extra, misshapen, of another kind or not finite.
    """
    try:
        with torch.device("meta"):
            model = CodecModel(config)
        whole = all(name in tensors for name, buffer in model.named_buffers() if buffer.is_meta)
    except (NotImplementedError, RuntimeError):
        whole = False
    if not whole:  # somebody's backbone computes something when it is made
        model = CodecModel(config)
    check_tensors(tensors, dict(model.state_dict()), path)
    model.load_state_dict(tensors, assign=True)
    return model


def rounded(model: CodecModel) -> CodecModel:
    """The model with its weights rounded to half precision, in place: half the bytes, no visible difference."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point() and torch.isfinite(tensor.half()).all():
            tensor.copy_(tensor.half())
    return model


def compact(tensor: Tensor) -> Tensor:
    """The tensor in half precision where that changes no value."""
    if tensor.dtype != torch.float32 or not torch.equal(tensor.half().float(), tensor):
        return tensor
    return tensor.half()


def digest(folder: Path) -> str:
    """SHA-256 of a checkpoint's weights, in hex."""
    return sha256(folder / "model.safetensors")


def sha256(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Refuse tensors that are missing, extra, of another shape or kind, or not finite."""
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or extra:
        raise CheckpointError(
            f"{path} does not fit its config: {len(missing)} tensors missing {missing[:2]}, "
            f"{len(extra)} extra {extra[:2]}; was it made by another version?"
        )
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise CheckpointError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            )
        if tensor.is_floating_point() != expected[name].is_floating_point() or tensor.is_complex():
            raise CheckpointError(f"{path}: {name} is of {tensor.dtype}, expected {expected[name].dtype}")
    if wrong := not_finite(found):
        raise CheckpointError(f"{path}: {wrong} holds NaN or infinity; take an earlier checkpoint")
