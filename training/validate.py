"""Working figures and pictures of a model in training."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.codec import CodecModel
from .data import fixed_set, split
from .material import Material


@torch.no_grad()
def measure(
    model: CodecModel,
    material: Material,
    quantize: bool,
    show: Callable[[list[Tensor]], None],
    views: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    limit: int = 256,
) -> dict[str, float]:
    """Working figures on up to `limit` validation pictures: PSNR in dB, IDS (recogniser cosine), quantisation error.

    `views` are further ways from latents to codes; their figures carry the view's name as a suffix.
    """
    if material.validation is None:
        return {}
    pictures = fixed_set(material.validation, material.faces.size, material.faces.options, limit)
    figures: dict[str, list[float]] = defaultdict(list)
    model.to(material.device)
    for number, batch in enumerate(torch.split(pictures, 32)):
        images, _ = split(batch, material.device)
        latents = model.encode(images)
        quantized = model.codebooks(latents)
        figures["quantization"] += (quantized.error / latents[0].numel()).tolist()
        codes = {"": quantized.codes if quantize else latents}
        codes |= {name: view(latents) for name, view in (views or {}).items()}
        rows = []
        for name, kind in codes.items():
            decoded = model.decode(kind).clamp(0, 1)
            figures[f"psnr{name}"] += (-10 * (decoded - images).square().mean((1, 2, 3)).log10()).tolist()
            if material.loss.recognizer is not None:
                embeddings = [material.loss.recognizer(x)[0] for x in (images, decoded)]
                figures[f"ids{name}"] += F.cosine_similarity(*embeddings).tolist()
            rows.append(decoded[:12].cpu())
        if number == 0:
            show([images[:12].cpu(), *rows])
    return {name: sum(values) / len(values) for name, values in figures.items()}
