"""The `stcq calibrate` command."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from ..errors import CalibrationError
from ..runtime.options import crop_option, json_option
from ..runtime.parts import part

TIMING = ("budget", "threads", "keep_float")  # options of int8 alone
JUDGING = ("recognizer", "max_ids_drop", "max_psnr_drop")
EQUAL = ("min_token_agreement", "min_group_agreement")


def refuse_ignored(mode: str, ignored: Sequence[str]) -> None:
    """Refuse options that a mode would not look at."""
    context = click.get_current_context()
    given = [name for name in ignored if context.get_parameter_source(name) != ParameterSource.DEFAULT]
    if given:
        listed = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{mode} does not look at {listed}; leave that out")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--images", type=click.Path(path_type=Path), required=True, help="Folder or zip of faces to calibrate on."
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path),
    help="Folder or zip of other people to judge on (default: a fifth of the people of --images).",
)
@click.option(
    "--recognizer",
    type=click.Path(path_type=Path),
    help="ONNX face recogniser, FILE or FILE:arcface; without it identity is not judged.",
)
@crop_option
@click.option(
    "--target",
    "targets",
    type=click.Choice(["onnx", "openvino", "tensorrt"]),
    multiple=True,
    help="Repeatable (default: onnx).",
)
@click.option("--max-ids-drop", default=0.01, show_default=True, help="Of the mean identity similarity.")
@click.option("--max-psnr-drop", default=0.1, show_default=True, help="Of the mean PSNR, dB.")
@click.option("--min-token-agreement", default=0.85, show_default=True, help="Where the groups agree.")
@click.option(
    "--min-group-agreement",
    default=0.7,
    show_default=True,
    help="Fraction of pictures; not asked of a codec with a memory.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0),
    default=10.0,
    show_default=True,
    help="Minutes of mixed precision search; 0 = none.",
)
@click.option(
    "--keep-float",
    multiple=True,
    metavar="NAME",
    help="Layers whose names hold NAME stay float in any case; repeatable (default: none).",
)
@click.option("--limit", type=click.IntRange(1), default=2000, show_default=True, help="Most calibration pictures.")
@click.option(
    "--held-out-limit", type=click.IntRange(1), default=1000, show_default=True, help="Most held-out pictures."
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads of the timed encoders."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses who is held out.")
@click.option(
    "--refit-codebooks", is_flag=True, help="Move the codewords to these pictures instead: writes another model to -o."
)
@click.option(
    "--codebooks",
    type=click.Choice(["fp16", "int8"]),
    help="Store the codebooks so instead: writes another model to -o.",
)
@click.option("--entropy-tables", is_flag=True, help="Add code frequencies for shorter packets, if they save 3 %.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), help="The new bundle of --refit-codebooks or --codebooks."
)
@json_option
def calibrate(
    bundle: Path,
    images: Path,
    held_out: Path | None,
    recognizer: Path | None,
    crop: float,
    targets: tuple[str, ...],
    max_ids_drop: float,
    max_psnr_drop: float,
    min_token_agreement: float,
    min_group_agreement: float,
    budget: float,
    keep_float: tuple[str, ...],
    limit: int,
    held_out_limit: int,
    threads: int,
    seed: int,
    refit_codebooks: bool,
    codebooks: str | None,
    entropy_tables: bool,
    out: Path | None,
    as_json: bool,
) -> None:
    """Make a bundle's encoder int8, judged on held-out faces; only what is faster and good enough enters the bundle."""
    chosen = [refit_codebooks, codebooks is not None, entropy_tables]
    if sum(chosen) > 1 or (any(chosen) and targets):
        raise click.UsageError("give one of --target, --refit-codebooks, --codebooks and --entropy-tables")
    if (refit_codebooks or codebooks is not None) != (out is not None):
        raise click.UsageError("--refit-codebooks and --codebooks need -o, and only they do")
    if entropy_tables:
        refuse_ignored("--entropy-tables", JUDGING + EQUAL + TIMING)
    elif refit_codebooks:
        refuse_ignored("--refit-codebooks", EQUAL + TIMING)
    elif codebooks is not None:
        refuse_ignored("--codebooks", TIMING)
    limits = part("calibration.gate").Limits(max_ids_drop, max_psnr_drop, min_token_agreement, min_group_agreement)
    pictures = {"held_out": held_out, "crop": crop, "limit": limit, "held_out_limit": held_out_limit, "seed": seed}
    judged = pictures | {"recognizer": recognizer, "limits": limits, "progress": _say}
    if entropy_tables:
        result = part("calibration.entropy").add_tables(bundle, images, **pictures, progress=_say)
    elif refit_codebooks:
        result = part("calibration.rebook").refit(bundle, images, out, **judged)
    elif codebooks is not None:
        result = part("calibration.rebook").store(bundle, images, out, codebooks, **judged)
    else:
        options = {"budget": budget * 60, "threads": threads, "keep_float": keep_float}
        result = part("calibration.calibrate").calibrate(
            bundle, images, targets=targets or ("onnx",), **options, **judged
        )
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.summary())
    if not result.kept:
        raise CalibrationError(f"nothing passed; {bundle} is unchanged")


def _say(step: str) -> None:
    """Progress on standard error."""
    click.echo(f"  {step}", err=True)
