"""The form of a codec that is shipped: BatchNorm folded into the convolutions, weights exact in half precision."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from .codec import CodecModel


@torch.no_grad()
def fold(model: CodecModel) -> CodecModel:
    """An equal codec without BatchNorm whose weights are float16 values; half the size, and not to be trained on.

    Convolution and BatchNorm in evaluation mode are one convolution: w' = w g / s, b' = beta - mu g / s with
    s = sqrt(var + eps). Rounding changes the decoded pictures by less than a grey level; because it is done here
    and not at export, every exported graph computes exactly this codec.

    Raises:
        CheckpointError: the backbone has no `norm` option or is folded already.
    """
    options = model.config.backbone_options
    if not options.get("norm", False):
        raise CheckpointError(f"the {model.config.backbone} backbone has no BatchNorm to fold; export it as it is")
    folded = CodecModel(dataclasses.replace(model.config, backbone_options=options | {"norm": False}))
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    for name, module in model.named_modules():
        layers = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        for (index, conv), (_, norm) in pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                tensors |= folded_pair(f"{name}.{index}", conv, norm)
    wanted = folded.state_dict()
    folded.load_state_dict({name: tensors[name].half().float() for name in wanted})
    return folded.eval()


def folded_pair(name: str, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> dict[str, Tensor]:
    """Weight and bias of the one convolution that equals two layers."""
    if norm.running_mean is None or norm.running_var is None:
        raise CheckpointError(f"{name}: BatchNorm without running statistics cannot be folded")
    scale = (norm.running_var + norm.eps).rsqrt()  # (C,)
    scale = scale if norm.weight is None else scale * norm.weight
    shift = -norm.running_mean * scale
    bias = shift if norm.bias is None else shift + norm.bias
    return {f"{name}.weight": conv.weight * scale[:, None, None, None], f"{name}.bias": bias}
