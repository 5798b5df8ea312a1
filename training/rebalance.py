"""New tokens for a trained `eigen` backbone: components in the metric of its own decoder.

What a quantiser should keep is what the loss would miss: near the latents z it is d' H d, with H the mean over faces of
J' W J, J the derivative of the decoded picture and of its embedding, W their weights in the loss. The components of
the latents in that metric, dealt out to tokens, take the old ones' place; encoder and decoder end and begin with linear
layers that take up the change, so unquantised pictures stay as they are. The embedding's weight says how much
similarity of pixels is given for similarity of identity, after training and for nothing. A codec with fewer numbers
gets the leading components, so a large codec is the start of a small one.
"""

from __future__ import annotations

from typing import cast

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..models import eigen
from ..models.codec import CodecModel
from .data import split
from .eigenfaces import COVERED, Embed, components, deal
from .recipe import Recipe

PROBED = 1024  # pictures
DIRECTIONS = 2  # of pixels and of the embedding, for each picture
FEW = 32  # pictures at a time


def rebalance(source: CodecModel, target: CodecModel, pictures: Tensor, recipe: Recipe, recognizer: Embed) -> None:
    """Give a codec with an `eigen` backbone the tokens of another one, drawn anew; its books and router do not fit yet.

    Args:
        source: a trained codec, in evaluation mode.
        target: what to change, of the source's convolutions and no more numbers (T d); may be the source itself.
        pictures: (N, 4, S, S) uint8; those with transparent parts are left out, each comes with its mirror image.
        recipe: the weights of pixels (`mse`) and embedding (`balance`) in its loss.
        recognizer: pictures (B, 3, S, S) -> embeddings (B, E) and more; all on the pictures' device.

    Raises:
        TrainingError: there are no more pictures than numbers in a picture's latents.
    """
    whole = pictures[pictures[:, 3].float().mean((1, 2)) >= 255 * COVERED]  # (N, 4, S, S)
    numbers, kept = (model.config.tokens * model.config.dim for model in (source, target))
    if 2 * len(whole) <= numbers:
        raise TrainingError(
            f"{2 * len(whole)} whole pictures cannot give {numbers} components; "
            "give more pictures, or take balance out of the recipe"
        )
    click.echo(f"new tokens from {2 * len(whole)} pictures")
    latents = encode(source, torch.cat([whole, whole.flip(3)]))  # (2 N, T, d)
    metric = loss_metric(source, latents, recipe, recognizer)  # (T*d, T*d)
    flat = latents.flatten(1)
    mean = flat.mean(0)
    variances, analysis, synthesis = components(flat - mean, kept, metric)
    order, scale = deal(variances, target.config.tokens), variances.mean().sqrt()
    turn(source, target, analysis[order] / scale, synthesis[:, order] * scale, mean)


@torch.no_grad()
def turn(source: CodecModel, target: CodecModel, analysis: Tensor, synthesis: Tensor, mean: Tensor) -> None:
    """Make the target's latents `analysis` (z - mean), z (N,) those of the source, and its decoder undo it.

    Args:
        source, target: of the same convolutions, which are not changed.
        analysis, synthesis, mean: (n, N), (N, n) and (N,), n the target's numbers.
    """
    old, new = cast(eigen.Encoder, source.encoder), cast(eigen.Encoder, target.encoder)
    new.transform.bias.copy_(analysis @ (old.transform.bias - mean))
    for layer, read in ((new.transform, old.transform), (new.residual, old.residual)):
        layer.weight.copy_(analysis @ read.weight)
    painted, painter = cast(eigen.Decoder, source.decoder), cast(eigen.Decoder, target.decoder)
    painter.head.load_state_dict(painted.head.state_dict())
    for layer, write in ((painter.transform, painted.transform), (painter.spread, painted.spread)):
        layer.bias.copy_(write.bias + write.weight @ mean)
        layer.weight.copy_(write.weight @ synthesis)


@torch.no_grad()
def encode(model: CodecModel, pictures: Tensor) -> Tensor:
    """Latents (N, T, d) of pictures (N, 4, S, S) uint8."""
    parts = [model.encode(split(part, part.device)[0]) for part in torch.split(pictures, FEW)]
    return torch.cat(parts)


def loss_metric(model: CodecModel, latents: Tensor, recipe: Recipe, recognizer: Embed) -> Tensor:
    """H (T*d, T*d), by random directions v: E[J' v v' J] = J' J, and a little of its mean on the diagonal."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = latents[0].numel()
    pixels, identity = latents.new_zeros(size, size), latents.new_zeros(size, size)
    picks = torch.randperm(len(latents), generator=generator)[:PROBED]
    with click.progressbar(torch.split(picks, FEW), label="metric  ") as bar:
        for few in bar:
            codes = latents[few.to(latents.device)].requires_grad_()
            decoded = model.decode(codes)
            embedding = F.normalize(recognizer(decoded.clamp(-0.1, 1.1))[0], dim=1)
            for _ in range(DIRECTIONS):
                for result, total in ((decoded, pixels), (embedding, identity)):
                    direction = torch.randn(result.shape, generator=generator).to(result.device)
                    (slope,) = torch.autograd.grad((result * direction).sum(), codes, retain_graph=True)
                    total += slope.flatten(1).T @ slope.flatten(1)
    numbers = 3 * recipe.codec.image_size**2
    metric = (recipe.loss.mse / numbers * pixels + recipe.loss.balance * identity) / (len(picks) * DIRECTIONS)
    return metric + 1e-4 * metric.diagonal().mean() * torch.eye(size, device=metric.device)
