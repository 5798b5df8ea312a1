"""MS-SSIM by torchmetrics (Wang, Simoncelli, Bovik 2003); an own file because it needs torch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

KERNEL = 7  # a window of 11 needs more than 160 pixels for five scales
LEAST = (1, 10, 28, 63, 112)  # S from which torchmetrics takes one scale, two, ... with this window
BETAS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssims(images: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> NDArray[np.float64]:
    """MS-SSIM of each pair of (N, S, S, 3): a Gaussian window of 7 pixels, five scales, or fewer below S = 112."""
    scales = sum(images.shape[1] >= least for least in LEAST)
    betas = tuple(beta / sum(BETAS[:scales]) for beta in BETAS[:scales])
    parts = []
    for start in range(0, len(images), 64):
        a, b = (torch.from_numpy(x[start : start + 64]).permute(0, 3, 1, 2).float() for x in (images, decoded))
        part = multiscale_structural_similarity_index_measure(
            a, b, kernel_size=KERNEL, sigma=1.0, data_range=255.0, reduction="none", betas=betas, normalize="relu"
        )
        parts.append(np.asarray(part, np.float64).reshape(-1))
    return np.concatenate(parts)
