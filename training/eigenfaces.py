"""The start of the `eigen` backbone: principal components of the training pictures, dealt out to tokens.

Components may be those of a metric in which a difference counts as its pixels do and, besides, as much as it moves
the recogniser's embedding: |x|^2 + w x' G x, with G the mean of J' J over faces, J the embedding's derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..models import eigen
from ..models.codec import CodecModel
from .recipe import Recipe

PROBED = 3000  # of all of them, for the recogniser's metric
COVERED = 0.99  # pictures of which less is there do not count
Embed = Callable[[Tensor], tuple[Tensor, Any]]


def start_transform(
    encoder: eigen.Encoder, decoder: eigen.Decoder, pictures: Tensor, recipe: Recipe, recognizer: Embed | None
) -> None:
    """Set the two transforms to the pictures' leading T d principal components, scaled to unit mean variance.

    Args:
        encoder, decoder: to be set, on the pictures' device.
        pictures: (N, 4, S, S) uint8; those with transparent parts are left out, each comes with its mirror image.
        recipe: the weight of the recogniser in the metric.
        recognizer: on that device, pictures (B, 3, S, S) -> embeddings (B, E) and more; None = pixels alone.

    Raises:
        TrainingError: there are no more pictures than components.
    """
    small = quarters(pictures)  # (N, 3 (S/4)^2)
    count = encoder.token_count * encoder.dim
    if len(small) <= count:
        raise TrainingError(
            f"{len(small)} whole pictures cannot give {count} principal components; "
            "give more pictures, or fewer tokens or a smaller dim in the recipe"
        )
    click.echo(f"eigenfaces of {len(small)} pictures")
    mean, metric = small.mean(0), None
    if recognizer is not None and recipe.loss.metric:
        pulled = pull_back(recognizer, small, decoder.enlarge, recipe.seed)
        metric = torch.eye(len(pulled), device=pulled.device) + recipe.loss.metric * pulled
    variances, analysis, synthesis = components(small - mean, count, metric)
    order = deal(variances, encoder.token_count)  # (T * d,)
    scale = variances.mean().sqrt()
    with torch.no_grad():
        encoder.transform.weight.copy_(analysis[order] / scale)
        encoder.transform.bias.copy_(-(analysis[order] / scale) @ mean)
        decoder.transform.weight.copy_(synthesis[:, order] * scale)
        decoder.transform.bias.copy_(mean)


@torch.no_grad()
def carry_over(source: CodecModel, target: CodecModel) -> None:
    """Give the target, whose transforms are fitted, what another number of tokens has learnt beside its own.

    Tokens of the one are linear in those of the other by way of the picture, so the layers that read and write
    tokens follow from the source's; the rest of the convolutions is taken over by `transplant`.
    """
    old, new = cast(eigen.Encoder, source.encoder), cast(eigen.Encoder, target.encoder)
    painted, painter = cast(eigen.Decoder, source.decoder), cast(eigen.Decoder, target.decoder)
    new.residual.weight.copy_(new.transform.weight @ painted.transform.weight @ old.residual.weight)
    painter.spread.weight.copy_(painted.spread.weight @ old.transform.weight @ painter.transform.weight)
    mean = old.transform.weight @ painter.transform.bias + old.transform.bias
    painter.spread.bias.copy_(painted.spread.weight @ mean + painted.spread.bias)
    painter.head.load_state_dict(painted.head.state_dict())


def quarters(pictures: Tensor) -> Tensor:
    """Whole pictures of (N, 4, S, S) uint8 and their mirror images at a quarter of the size, (2 n, 3 (S/4)^2)."""
    whole = pictures[pictures[:, 3].float().mean((1, 2)) >= 255 * COVERED]
    parts = [F.avg_pool2d(part[:, :3].float().div_(255), eigen.QUARTER) for part in torch.split(whole, 512)]
    if not parts:
        return torch.empty(0, 3 * (pictures.shape[-1] // eigen.QUARTER) ** 2, device=pictures.device)
    small = torch.cat(parts)
    return torch.cat([small, small.flip(3)]).flatten(1)


def components(centred: Tensor, count: int, metric: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of centred points (N, D) in a metric (D, D), none = the common one.

    Returns:
        the largest variances (count,), falling; analysis (count, D) and synthesis (D, count).
    """
    covariance = centred.T @ centred / len(centred)
    if metric is None:
        values, vectors = torch.linalg.eigh(covariance)  # rising
        analysis = synthesis = vectors
    else:
        lengths, axes = torch.linalg.eigh(metric)
        root, inverse = (axes * lengths.sqrt()) @ axes.T, (axes / lengths.sqrt()) @ axes.T
        values, vectors = torch.linalg.eigh(root @ covariance @ root)
        analysis, synthesis = root @ vectors, inverse @ vectors
    pick = torch.arange(len(values) - 1, len(values) - 1 - count, -1)
    return values[pick].clamp_min(1e-12), analysis[:, pick].T.contiguous(), synthesis[:, pick].contiguous()


def pull_back(recognizer: Embed, pictures: Tensor, enlarge: Tensor, seed: int) -> Tensor:
    """G (D, D): the mean of J' J over pictures (N, D), J the derivative of the embedding, of length 1, enlarged.

    Random directions v stand for all of the embedding's: E[J' v v' J] = J' J. Symmetric to mirroring.
    """
    side = enlarge.shape[1]
    generator = torch.Generator().manual_seed(seed)
    total, count = pictures.new_zeros(pictures.shape[1], pictures.shape[1]), 0
    picks = torch.randperm(len(pictures), generator=generator)[:PROBED]
    with click.progressbar(torch.split(picks, 50), label="metric  ") as bar:
        for few in bar:
            quarter = pictures[few.to(pictures.device)].requires_grad_()
            image = enlarge @ quarter.reshape(-1, 3, side, side) @ enlarge.T
            embedding = F.normalize(recognizer(image)[0], dim=1)
            for _ in range(4):
                direction = torch.randn(embedding.shape, generator=generator).to(embedding.device)
                (slope,) = torch.autograd.grad((embedding * direction).sum(), quarter, retain_graph=True)
                total, count = total + slope.T @ slope, count + len(slope)
    mirrored = total.reshape(3, side, side, 3, side, side).flip(2, 5).reshape(total.shape)
    return (total + mirrored) / (2 * count)


def deal(variances: Tensor, tokens: int) -> Tensor:
    """Positions of components, token by token, so that the tokens' products of variances are about equal.

    Then equal bits for all tokens are right (Ge et al. 2013, Optimized Product Quantization, section 4.2): each
    component, the largest first, goes to the token with room whose product is smallest.
    """
    room = len(variances) // tokens
    logs = (variances / variances[-1]).log().tolist()
    hands: list[list[int]] = [[] for _ in range(tokens)]
    products = [0.0] * tokens
    for number, log in enumerate(logs):
        token = min((t for t in range(tokens) if len(hands[t]) < room), key=lambda t: (products[t], len(hands[t])))
        hands[token].append(number)
        products[token] += log
    return torch.tensor([number for hand in hands for number in hand])
