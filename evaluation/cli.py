"""The `stcq evaluate` and `stcq demo` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import StcqError
from ..runtime.bundle import EMBEDDED
from ..runtime.codec import Codec
from ..runtime.options import (
    codec_options,
    crop_option,
    json_option,
    memory_options,
    router_steps_option,
    start_option,
)
from ..runtime.parts import part

RECOGNIZER = "ONNX face recogniser: FILE, or FILE:arcface if it wants a mean and std of 0.5 instead of ImageNet's."


@click.command()
@click.argument("codec", type=click.Path(path_type=Path), metavar="BUNDLE|CHECKPOINT", default=EMBEDDED)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder, zip or InsightFace .bin.")
@click.option("--recognizer", type=click.Path(path_type=Path), required=True, help=RECOGNIZER)
@crop_option
@click.option("--limit", type=click.IntRange(1), help="Most pictures, evenly spaced; leaves out verification.")
@click.option(
    "--pairs",
    type=click.Path(path_type=Path),
    help="Verification pairs, not with --limit (default: made from the folders' people; a .bin has its own).",
)
@click.option("--peers", help="Classical codecs to compare with, such as jpeg,jpeg2000,webp,avif,jxl.")
@click.option("--policy", type=click.Choice(["nn", "router"]), help="Group selection (default: the bundle's).")
@click.option("--variant", default="auto", show_default=True, help="Such as onnx-fp32.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Folder for JSON, plot and picture grid.")
@json_option
def evaluate(
    codec: Path,
    images: Path,
    recognizer: Path,
    crop: float,
    limit: int | None,
    pairs: Path | None,
    peers: str | None,
    policy: str | None,
    variant: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure a codec: bytes, PSNR, MS-SSIM, IDS, verification, code usage, and peers at equal bytes."""
    command = part("evaluation.command")
    names = peers.split(",") if peers else []

    def show(result: Any) -> None:
        click.echo(json.dumps(result.to_dict(), indent=2) if as_json else command.table(result))

    command.run(codec, images, recognizer, crop, limit, pairs, names, policy, variant, out, show)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--train-images",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Folder or zip that the books are fitted to; repeat.",
)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Faces of other people to measure on.")
@click.option("--recognizer", type=click.Path(path_type=Path), required=True, help=RECOGNIZER)
@click.option("--tokens", type=click.IntRange(1), help="T  [default: the checkpoint's]")
@click.option("--codes", type=click.IntRange(1), help="K  [default: the checkpoint's]")
@click.option("--groups", type=click.IntRange(1), help="M of the switchable rows  [default: the checkpoint's]")
@crop_option
@click.option("--limit", type=click.IntRange(1), default=30_000, show_default=True, help="Latents to fit on.")
@click.option(
    "--prior", type=click.FloatRange(0), default=0.0, show_default=True, help="Pull towards all groups' books."
)
@click.option("--switches", type=click.IntRange(1), help="S: runs of tokens that choose apart.")
@memory_options
@router_steps_option
@start_option
@click.option("-o", "--out", type=click.Path(path_type=Path), help="JSON file to write.")
def ablate(
    checkpoint: Path, train_images: tuple[Path, ...], images: Path, recognizer: Path, out: Path | None, **options: Any
) -> None:
    """Compare shared, switchable and token-specific books at equal bits on one frozen tokenizer.

    Switches and memory are those of row (d): the checkpoint's, but none where
    --groups, --switches or --memory is given.
    """
    module = part("evaluation.ablation")
    rows = module.ablate(checkpoint, train_images, images, recognizer, **options)
    click.echo(module.table(rows))
    if out is not None:
        module.save(rows, out)


@click.command()
@click.option("-o", "--out", type=click.Path(path_type=Path), default="demo.png", show_default=True)
@codec_options
@json_option
def demo(out: Path, bundle: Path | None, variant: str, policy: str | None, threads: int | None, as_json: bool) -> None:
    """Encode and decode the embedded face; writes a comparison with classical codecs."""
    with Codec.load(bundle, variant=variant, policy=policy, threads=threads) as codec:
        try:
            result = part("evaluation.demo").demo(codec, out)
        except OSError as error:
            raise StcqError(f"{out} cannot be written: {error.strerror or error}; give another -o") from error
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.summary())
