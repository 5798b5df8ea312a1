"""Command-line options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def codec_options(command: Any) -> Any:
    """The options that say which codec to open."""
    for option in (
        click.option("--threads", type=click.IntRange(1), help="CPU threads (default: all this process may use)."),
        click.option("--policy", type=click.Choice(["nn", "router"]), help="Group selection (default: the bundle's)."),
        click.option("--variant", default="auto", show_default=True, help="Such as onnx-fp32."),
        click.option(
            "--bundle", "-b", type=click.Path(path_type=Path), help="Bundle folder or zip (default: the embedded one)."
        ),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

start_option = click.option(
    "--start",
    type=click.Choice(["lloyd", "independent"]),
    default="lloyd",
    show_default=True,
    help="independent: each group fitted to all pictures, from a start of its own.",
)

router_steps_option = click.option(
    "--router-steps",
    type=click.IntRange(0),
    default=1500,
    show_default=True,
    help="Optimiser steps of the router; 0 leaves it untrained, which the policy nn does not mind.",
)


def _fraction(context: click.Context, parameter: click.Parameter, value: float) -> float:
    """A number above 0, up to 1; click's own range lets NaN through."""
    if not 0 < value <= 1:
        raise click.BadParameter(f"{value} is no fraction; give a number above 0, up to 1")
    return value


crop_option = click.option(
    "--crop",
    default=1.0,
    show_default=True,
    callback=_fraction,
    help="Side of the face crop over the picture's shorter side.",
)


def _whole_numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Numbers between commas."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        raise click.BadParameter(f"{text!r} are no whole numbers with commas between them, like 1,2,1,3") from None


def memory_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--memory`, `--memory-sets` and `--memory-weights`; None where they are not given."""
    options = (
        click.option(
            "--memory", type=click.IntRange(0), help="D: the codes of so many tokens pick the next one's books."
        ),
        click.option("--memory-sets", type=click.IntRange(1), help="Sets of books they pick among  [default: M^(1/D)]"),
        click.option(
            "--memory-weights",
            callback=_whole_numbers,
            metavar="N,...",
            help="D weights of their sum that picks, the newest code's first  [default: all 1]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
