"""The reconstruction loss: pixels, identity and face features."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .recipe import LossOptions
from .recognizer import Recognizer


class ReconstructionLoss(nn.Module):
    """L = l1 |x - y| + mse |x - y|^2 + identity (1 - cos(f(x), f(y))) + features sum_l dist_l(x, y).

    The paper's L_perceptual + L_face; without a recogniser only the pixel terms remain.
    """

    def __init__(self, options: LossOptions, recognizer: Recognizer | None) -> None:
        super().__init__()
        self.options, self.recognizer = options, recognizer

    def forward(self, decoded: Tensor, images: Tensor, weights: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Loss of decoded against images, both (B, 3, S, S) in [0, 1]; weights (B, 1, S, S) of the pixels."""
        options = self.options
        difference = decoded - images
        scale = weights / weights.mean().clamp_min(1e-3)
        l1 = (difference.abs() * scale).mean()
        mse = (difference.square() * scale).mean()
        total = options.l1 * l1 + options.mse * mse
        parts = {"l1": l1.item(), "mse": mse.item()}
        if self.recognizer is not None:
            looked = max(1, round(len(images) * options.share))
            with torch.no_grad():
                target, target_features = self.recognizer(images[:looked])
            found, found_features = self.recognizer(decoded[:looked].clamp(-0.1, 1.1))
            identity = 1 - F.cosine_similarity(found, target).mean()
            pairs = zip(found_features, target_features, strict=True)
            features = torch.stack([feature_distance(a, b) for a, b in pairs]).mean()
            total = total + options.identity * identity + options.features * features
            parts |= {"identity": identity.item(), "features": features.item()}
        return total, parts | {"loss": total.item()}


def feature_distance(found: Tensor, target: Tensor) -> Tensor:
    """Mean over positions of the squared distance of channel-normalised activations (B, C, H, W) (as LPIPS)."""
    return (F.normalize(found, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()
