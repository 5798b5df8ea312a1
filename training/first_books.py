"""What a books stage begins with: copies of the stage before, or books fitted to latents without gradients."""

from __future__ import annotations

import click
import torch
from torch import Tensor

from ..errors import TrainingError
from ..models.config import CodecConfig
from .lloyd import State, fit_groups, fit_independent
from .options import BooksOptions
from .run import Run
from .trellis import fit_trellis


def first_books(
    latents: Tensor,
    before: Tensor,
    config: CodecConfig,
    options: BooksOptions,
    generator: torch.Generator,
    run: Run | None,
) -> Tensor:
    """First values of the books, (V, T, K, d) or, shared by all tokens, (V, 1, K, d).

    Args:
        latents: (N, T, d) to fit them to.
        before: the books of the codec that the stage goes on from; taken by start "copy" alone.
        generator: of everything random in a fit.
        run: keeps the state of a fit after each iteration, so that it is resumed from there.

    Raises:
        TrainingError: start "copy" from books that are no shared ones of as many groups.
    """
    if options.start == "copy":
        if before.shape != (config.sets, 1, config.codes, config.dim):
            raise TrainingError(
                f"[{config.books}] start = copy needs shared books of {config.sets} groups x {config.codes} codes; "
                "run the shared stage before it, or take start = lloyd"
            )
        return before.to(latents.device).repeat(1, config.books_per_group, 1, 1)
    parts = latents.chunk(config.switches, 1)
    fitted = [_fitted(part, switch, config, options, generator, run) for switch, part in enumerate(parts)]
    return torch.cat(fitted, 1) if config.switches > 1 else fitted[0]  # one is not copied: gigabytes


def forget(config: CodecConfig, run: Run) -> None:
    """Drop the states that `first_books` kept."""
    for switch in range(config.switches):
        run.drop_state(_state(config, switch))


def _fitted(
    latents: Tensor,
    switch: int,
    config: CodecConfig,
    options: BooksOptions,
    generator: torch.Generator,
    run: Run | None,
) -> Tensor:
    """Books (V, T or 1, K, d) of one switch's tokens, whose latents (N, T, d) are given: switches choose apart."""
    apart, shared = options.start == "independent" and not config.memory, config.books == "shared"
    kind, count = ("group", config.sets) if apart else ("iteration", options.iterations)
    of = f" of switch {switch + 1}/{config.switches}" if config.switches > 1 else ""

    def report(number: int, error: float) -> None:
        if run:
            facts = {kind: number} | ({"switch": switch} if of else {})
            run.log(stage=config.books, quantization=error / config.dim, **facts)
        click.echo(f"{config.books} {kind} {number + 1}/{count}{of}: error {error / config.dim:.5f}", err=True)

    def keep(step: int, state: State) -> None:
        if run:
            run.save_state(_state(config, switch), step, state)

    kept = run.load_state(_state(config, switch)) if run else None
    sizes = (latents, config.sets, config.codes, options.iterations, generator, report)
    if config.memory:
        return fit_trellis(latents, config.switching, *sizes[3:], options.shuffle, options.turn, kept, keep)
    if apart:
        return fit_independent(*sizes, shared=shared, kept=kept, keep=keep)
    return fit_groups(*sizes, shared=shared, prior=options.prior, kept=kept, keep=keep)


def _state(config: CodecConfig, switch: int) -> str:
    """The name of the state in which the first books of a switch's tokens are."""
    return f"{config.books}-start-{switch}"
