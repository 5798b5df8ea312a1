"""The reconstruction loss: pixels, identity and face features."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.layers import lowpass_matrix
from .options import LossOptions
from .recognizer import Recognizer, Recognizers, resize


class ReconstructionLoss(nn.Module):
    """L = l1 |x - y| + mse |x - y|^2 + identity (1 - cos(f(x), f(y))) + features sum_l dist_l(x, y).

    The paper's L_perceptual + L_face; without a recogniser only the pixel terms remain.
    """

    def __init__(self, options: LossOptions, recognizer: Recognizer | Recognizers | None) -> None:
        super().__init__()
        self.options, self.recognizer = options, recognizer
        self._look: Callable[[Tensor], tuple[Tensor, list[Tensor]]] | None = recognizer

    def compile_recognizer(self) -> None:
        """Send what the loss asks of the recogniser through `torch.compile`."""
        if self.recognizer is not None:
            self._look = torch.compile(self.recognizer)

    def forward(
        self, decoded: Tensor, images: Tensor, weights: Tensor, seed: int = 0, guesses: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of decoded against images, both (B, 3, S, S) in [0, 1]; weights (B, 1, S, S) of the pixels.

        `seed` fixes which part of the pictures the recogniser looks at; `guesses` (B, E) are a probe's embeddings.
        """
        options = self.options
        difference = decoded - images
        scale = weights / weights.mean().clamp_min(1e-3)
        l1 = (difference.abs() * scale).mean()
        mse = (difference.square() * scale).mean()
        total = options.l1 * l1 + options.mse * mse
        parts = {"l1": l1.detach(), "mse": mse.detach()}
        if self._look is not None:
            picks, window = self.picks(len(images), seed), self.window(images.shape[-1], seed)
            with torch.no_grad():
                target, target_features = self._look(shown(images[picks], window))
            seen = decoded[picks].clamp(-0.1, 1.1)
            seen = lowpass(seen, self.options.cutoff) if self.options.cutoff else seen
            disturbed = self.disturb(seen, seed)
            found, found_features = self._look(shown(disturbed, window))
            identity = 1 - F.cosine_similarity(found, target).mean()
            pairs = zip(found_features, target_features, strict=True)
            features = torch.stack([feature_distance(a, b) for a, b in pairs]).mean()
            total = total + options.identity * identity + options.features * features
            if guesses is not None:
                probe = 1 - F.cosine_similarity(guesses[picks], target).mean()
                total, parts = total + options.probe * probe, parts | {"probe": probe.detach()}
            parts |= {"identity": identity.detach(), "features": features.detach()}
        return total, parts | {"loss": total.detach()}

    def probe(self, numbers: int) -> nn.Module | None:
        """A network from codes of so many numbers to the recogniser's embedding, where the recipe wants one."""
        if self.recognizer is None or not self.options.probe:
            return None
        device = next(self.recognizer.buffers()).device
        embedding = self.recognizer(torch.zeros(1, 3, 112, 112, device=device))[0].shape[1]
        layers = (nn.Flatten(), nn.Linear(numbers, 512), nn.ReLU(), nn.Linear(512, embedding))
        return nn.Sequential(*layers).to(device)

    def picks(self, count: int, seed: int) -> slice | list[int]:
        """Which of so many pictures the recogniser looks at."""
        looked = max(1, round(count * self.options.share))
        if looked == count:
            return slice(None)
        start = seed % count  # not always the same rows: a base stage quantises them differently
        return [(number * count // looked + start) % count for number in range(looked)]

    def disturb(self, images: Tensor, seed: int) -> Tensor:
        """Images with normal noise, of one standard deviation for all, drawn up to the option's."""
        if not self.options.noise:
            return images
        generator = torch.Generator(images.device).manual_seed(seed)
        strength = self.options.noise * float(np.random.default_rng((seed, 8)).random())
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        return images + strength * noise

    def window(self, size: int, seed: int) -> tuple[slice, slice]:
        """A random square of the picture for the recogniser, at most `jitter` smaller than the picture."""
        rng = np.random.default_rng((seed, 7))
        side = round(size * (1 - self.options.jitter * rng.random()))
        top, left = (int(rng.integers(size - side + 1)) for _ in range(2))
        return slice(top, top + side), slice(left, left + side)


def shown(images: Tensor, window: tuple[slice, slice]) -> Tensor:
    """A window of images as the recogniser takes them, (B, 3, 112, 112), channels last."""
    return resize(images[:, :, *window]).contiguous(memory_format=torch.channels_last)


def lowpass(images: Tensor, cutoff: float) -> Tensor:
    """Images (B, C, S, S) float32, low-pass filtered across and down by `lowpass_matrix`."""
    keep = lowpass_matrix(images.shape[-1], cutoff).to(images)
    with torch.autocast(images.device.type, enabled=False):
        return keep @ images @ keep.T


def feature_distance(found: Tensor, target: Tensor) -> Tensor:
    """Mean over positions of the squared distance of channel-normalised activations (B, C, H, W) (as LPIPS)."""
    return (F.normalize(found, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()


def router_losses(scores: Tensor, errors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The paper's router losses (Wang et al. 2025; formulas read from its prose).

    With g = softmax(scores) and gbar its mean over the batch:
    L_qua = mean_b sum_m g_m (e_m - ebar), here in units of the batch's mean error;
    L_ent = sum_m gbar_m log gbar_m, lowest when all groups are used;
    L_dec = - mean_b sum_m g_m log g_m, lowest when each picture is decided.

    Args:
        scores: (B, M) of the router.
        errors: (B, M) squared quantisation errors of the groups.

    Returns:
        L_qua, L_ent, L_dec.
    """
    g = scores.softmax(1)
    log_g = scores.log_softmax(1)
    quality = (g * (errors - errors.mean(1, keepdim=True))).sum(1).mean() / errors.mean().clamp_min(1e-12)
    mean = g.mean(0)
    return quality, torch.special.entr(mean).sum().neg(), -(g * log_g).sum(1).mean()
