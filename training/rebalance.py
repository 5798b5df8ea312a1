"""New tokens for a trained `eigen` backbone: components in the metric of its own decoder.

What a quantiser should keep is what the loss would miss: near the latents z it is d' H d, with H the mean over faces of
J' W J, J the derivative of the decoded picture and of its embedding, W their weights in the loss. The components of
the latents in that metric, dealt out to tokens, take the old ones' place; encoder and decoder end and begin with linear
layers that take up the change, so unquantised pictures stay as they are. The embedding's weight says how much
similarity of pixels is given for similarity of identity, after training and for nothing.
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


def rebalance(model: CodecModel, pictures: Tensor, recipe: Recipe, recognizer: Embed) -> None:
    """Draw the tokens of a codec with an `eigen` backbone anew; books and router no longer fit afterwards.

    Args:
        model: the codec, in evaluation mode.
        pictures: (N, 4, S, S) uint8; those with transparent parts are left out, each comes with its mirror image.
        recipe: the weights of pixels (`mse`) and embedding (`balance`) in its loss.
        recognizer: pictures (B, 3, S, S) -> embeddings (B, E) and more; all on the pictures' device.

    Raises:
        TrainingError: there are no more pictures than numbers in a picture's latents.
    """
    whole = pictures[pictures[:, 3].float().mean((1, 2)) >= 255 * COVERED]  # (N, 4, S, S)
    if 2 * len(whole) <= recipe.codec.tokens * recipe.codec.dim:
        raise TrainingError(
            f"{2 * len(whole)} whole pictures cannot give {recipe.codec.tokens * recipe.codec.dim} components; "
            "give more pictures, or take balance out of the recipe"
        )
    click.echo(f"new tokens from {2 * len(whole)} pictures")
    latents = encode(model, torch.cat([whole, whole.flip(3)]))  # (2 N, T, d)
    metric = loss_metric(model, latents, recipe, recognizer)  # (T*d, T*d)
    flat = latents.flatten(1)
    variances, analysis, _ = components(flat - flat.mean(0), len(metric), metric)
    turn(model, analysis[deal(variances, model.config.tokens)] / variances.mean().sqrt())


@torch.no_grad()
def turn(model: CodecModel, matrix: Tensor) -> None:
    """Make the latents z of a codec `matrix` z, (T*d, T*d), and undo it in the decoder."""
    encoder, decoder = cast(eigen.Encoder, model.encoder), cast(eigen.Decoder, model.decoder)
    inverse = torch.linalg.inv(matrix.double()).float()
    for layer in (encoder.transform, encoder.residual):
        layer.weight.copy_(matrix @ layer.weight)
    encoder.transform.bias.copy_(matrix @ encoder.transform.bias)
    for layer in (decoder.transform, decoder.spread):
        layer.weight.copy_(layer.weight @ inverse)


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
