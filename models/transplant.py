"""Carrying a trained encoder and decoder into a codec of another size."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .checkpoint import check_tensors
from .codec import CodecModel

NUMBERS = {"transform", "residual", "spread"}  # an `eigen` backbone's layers whose size goes with T * d


def transplant(source: CodecModel, target: CodecModel) -> None:
    """Copy encoder and decoder into a codec that may have more residual blocks or other tokens in a cell.

    New blocks start as the identity, by zeros in front of their last norm: a stage whose norms stand still trains all
    of them from its first step on. Fewer tokens keep the first ones of each cell, which a base stage with
    `nested` has trained to stand alone; further ones start untrained and unseen by the decoder.

    From another kind of backbone, or for an `eigen` backbone of another T * d, only what has the same name and
    shape is taken over: the convolutions, but not the decoder's head. With the same T * d the numbers are dealt to
    the new tokens as they come.

    Raises:
        CheckpointError: the target lacks a tensor of the source, or has it in another shape; for an `eigen` backbone of
            another T * d, a convolution has another width.
    """
    for name in ("encoder", "decoder"):
        old, new = getattr(source, name), getattr(target, name)
        have, want = old.state_dict(), new.state_dict()
        if not same_kind(source, target):
            if source.config.backbone == target.config.backbone:
                _check_widths(name, have, want)
            same = {k: v for k, v in have.items() if k in want and v.shape == want[k].shape and k[:5] != "head."}
            new.load_state_dict(want | same)
            continue
        added = {key for key in want if key not in have}
        if lost := sorted(key for key in have if key not in want):
            raise CheckpointError(f"{name} has {lost[0]} too many; the numbers of residual blocks may only grow")
        if any(key.partition(".")[0] != "blocks" for key in added):
            raise CheckpointError(f"{name} lacks {sorted(added)[0]}; only the numbers of residual blocks may grow")
        fitted = _fit_latents(old, have, want, unseen=name == "decoder")
        check_tensors(fitted, {key: value for key, value in want.items() if key not in added}, Path(name))
        new.load_state_dict(want | fitted | {key: at_rest(key, want[key]) for key in added})


def at_rest(key: str, tensor: Tensor) -> Tensor:
    """A tensor of a new residual block, with zeros in its last convolution and not in the norm behind that."""
    if key.endswith("body.1.0.weight"):
        return torch.zeros_like(tensor)
    return torch.ones_like(tensor) if key.endswith("body.1.1.weight") else tensor


def same_numbers(source: CodecModel | None, target: CodecModel) -> bool:
    """Whether the numbers of a picture mean the same in both: one kind of backbone and as many of them."""
    if source is None:
        return False
    a, b = source.config, target.config
    return (a.backbone, a.tokens * a.dim) == (b.backbone, b.tokens * b.dim)


def enough_numbers(source: CodecModel, target: CodecModel) -> bool:
    """Whether both have the `eigen` backbone and the target's numbers, no more, can be chosen from the source's."""
    a, b = source.config, target.config
    return a.backbone == b.backbone == "eigen" and b.tokens * b.dim <= a.tokens * a.dim


def same_kind(source: CodecModel, target: CodecModel) -> bool:
    """Whether all of an encoder and decoder can be carried over, tokens cut or added where need be."""
    one = source.config.backbone == target.config.backbone
    return one and (target.config.backbone != "eigen" or same_numbers(source, target))


def _check_widths(half: str, have: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Refuse convolutions of other widths; the layers that read and write numbers may have any size."""
    for key in sorted(have.keys() & want.keys()):
        if key.partition(".")[0] not in NUMBERS and have[key].shape != want[key].shape:
            raise CheckpointError(
                f"{half}: {key} of --init has shape {tuple(have[key].shape)}, the recipe's {tuple(want[key].shape)}; "
                "give both the same widths in [codec.backbone_options]"
            )


def _fit_latents(
    module: nn.Module, have: dict[str, Tensor], want: dict[str, Tensor], unseen: bool
) -> dict[str, Tensor]:
    """`have` with its latent channels cut or extended to those of `want`, by zeros where `unseen`."""
    fitted = dict(have)
    axes: dict[str, int] = getattr(module, "latent_axes", {})
    for name, axis in axes.items():
        if name not in have or name not in want or have[name].shape == want[name].shape:
            continue
        kept = min(have[name].shape[axis], want[name].shape[axis])
        other = [i for i in range(have[name].ndim) if i != axis]
        if any(have[name].shape[i] != want[name].shape[i] for i in other):
            continue  # of another width: refused by its name
        tensor = want[name].clone().zero_() if unseen else want[name].clone()
        tensor.narrow(axis, 0, kept).copy_(have[name].narrow(axis, 0, kept))
        fitted[name] = tensor
    return fitted
