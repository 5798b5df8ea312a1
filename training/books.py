"""The books stage: switchable codebooks and the router, fitted to the frozen encoder's latents."""

from __future__ import annotations

from collections.abc import Callable

import click
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import TrainingError
from ..models.codec import CodecModel
from ..models.config import CodecConfig
from ..models.transplant import transplant
from .data import loader, split
from .lloyd import fit_groups
from .losses import router_losses
from .recipe import BooksOptions
from .run import Run
from .stage import Material, measure


def books_stage(
    model: CodecModel, config: CodecConfig, options: BooksOptions, material: Material, run: Run
) -> CodecModel:
    """The books stage of a run: fit, then measure on the validation pictures.

    Raises:
        TrainingError: fewer latents than codewords.
    """
    latents = collect(model, options, material)
    result = fit_codebooks(
        model, config, latents, options, material.seed, lambda **record: run.log(stage="books", **record)
    )
    if material.validation is not None:
        figures = measure(result, material.validation, material, True, lambda rows: run.picture("books", rows))
        run.log(stage="books", validation=figures)
        click.echo("books: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    return result.cpu()


def fit_codebooks(
    model: CodecModel,
    config: CodecConfig,
    latents: Tensor,
    options: BooksOptions,
    seed: int,
    log: Callable[..., None] = lambda **record: None,
) -> CodecModel:
    """A copy of the model with config's groups and codes, its books and router fitted to latents (N, T, d).

    Raises:
        TrainingError: fewer latents than codewords.
    """
    result = CodecModel(config)
    transplant(model, result)
    shared = config.books == "shared"
    points = latents.shape[0] * (latents.shape[1] if shared else 1)
    if points < config.codes * config.groups:
        raise TrainingError(
            f"{len(latents)} pictures cannot fill {config.groups} groups of {config.codes} codewords; "
            f"give more pictures, more passes, or fewer codes or groups"
        )
    generator = torch.Generator().manual_seed(seed)

    def report(iteration: int, error: float) -> None:
        log(iteration=iteration, quantization=error / config.dim)
        click.echo(f"books iteration {iteration + 1}/{options.iterations}: error {error / config.dim:.5f}", err=True)

    weight = fit_groups(latents, config.groups, config.codes, options.iterations, generator, report, shared=shared)
    result.codebooks.weight.data.copy_(weight.half())  # exact in two bytes, which halves them in a bundle
    fit_router(result, latents, options, generator)
    return result.eval()


@torch.no_grad()
def collect(model: CodecModel, options: BooksOptions, material: Material) -> Tensor:
    """Latents (N, T, d) of augmented pictures."""
    count = min(options.limit, options.passes * sum(len(s.names) for s in material.faces.sources))
    model.to(material.device).eval()
    batches = loader(material.faces, 32, 0, -(-count // 32), material.seed + 2)
    latents = []
    with click.progressbar(batches, label="latents ") as bar:
        for batch in bar:
            latents.append(model.encode(split(batch, material.device)[0]).float().cpu())
    return torch.cat(latents)[:count]


def fit_router(model: CodecModel, latents: Tensor, options: BooksOptions, generator: torch.Generator) -> None:
    """Train the router on latents (N, T, d) to expect the group of least quantisation error."""
    if model.config.groups == 1:
        return
    optimizer = torch.optim.AdamW(model.router.parameters(), lr=options.router_lr, weight_decay=1e-2)
    for step in range(options.router_steps):
        part = latents[torch.randint(len(latents), (options.router_batch,), generator=generator)]
        with torch.no_grad():
            errors = model.codebooks.distances(part).amin(3).sum(2) + part.square().sum((1, 2))[:, None]  # (B, M)
        scores = model.router(part)
        quality, entropy, decisive = router_losses(scores, errors)
        loss = options.router_quality * quality + options.router_entropy * entropy + options.router_decisive * decisive
        loss = loss + options.router_nearest * F.cross_entropy(scores, errors.argmin(1))
        optimizer.param_groups[0]["lr"] = options.router_lr * (1 - step / options.router_steps)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
