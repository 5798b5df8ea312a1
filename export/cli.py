"""The `stcq export` command."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..runtime.options import json_option
from ..runtime.parts import part


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Bundle folder; an older bundle there is replaced.",
)
@click.option("--name", help="The model's name in the manifest (default: the folder's).")
@click.option("--images", type=click.Path(path_type=Path), help="Folder or zip of pictures to check parity on as well.")
@click.option(
    "--limit", type=click.IntRange(1), default=200, show_default=True, help="Most pictures taken from --images."
)
@json_option
def export(checkpoint: Path, out: Path, name: str | None, images: Path | None, limit: int, as_json: bool) -> None:
    """Export a training checkpoint as a bundle; fails when the graphs disagree with torch."""
    module = part("export.export")
    pictures = module.load_pictures(checkpoint, images, limit) if images else None
    result = module.export(
        checkpoint, out, name=name, images=pictures, progress=lambda step: click.echo(f"  {step}", err=True)
    )
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.summary())
