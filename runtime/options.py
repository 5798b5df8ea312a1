"""Command-line options that several commands share."""

from __future__ import annotations

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
