"""The `stcq export` command, also installed as `stcq-export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import BackendMissing
from ..runtime.parts import part

DEFAULT_TARGETS = ("onnx", "openvino")


class Batch(click.ParamType["int | None"]):
    """`dynamic`, or a number for a fixed batch."""

    name = "dynamic|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """None for dynamic."""
        text = str(value).removeprefix("static").lstrip(" :=")
        if text == "dynamic":
            return None
        if not text.isdecimal() or not 1 <= int(text) <= 1024:
            self.fail(f"{value!r} is neither 'dynamic' nor a number from 1 to 1024", param, ctx)
        return int(text)


def list_targets(ctx: click.Context, option: click.Parameter, wanted: bool) -> bool:
    """Print the targets and leave, when --list and --json, in either order, are both read; needs the base alone."""
    asked = ctx.meta.setdefault("stcq.export.list", {})
    asked[option.name] = wanted
    if len(asked) < 2 or not asked["listing"] or ctx.resilient_parsing:
        return wanted
    rows = part("export.targets").describe_targets()
    if asked["as_json"]:
        click.echo(json.dumps(rows, indent=2))
        ctx.exit()
    for row in rows:
        click.echo(f"{row['target']:9} {', '.join(row['precisions']):11} {row['about']}")
        click.echo(
            "          write: "
            + ("yes" if row["can_write"] else f"no, {', '.join(row['missing'])} missing; run: {row['fix']}")
        )
        ran = (
            f"yes, {row['backend']} {row['version']}"
            if row["can_run"]
            else f"no, {row['backend']} missing; run: {row['run_fix']}"
        )
        click.echo(f"          run here: {ran}")
    ctx.exit()


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Bundle folder; variants are added to one that is there.",
)
@click.option(
    "--target",
    "targets",
    type=click.Choice(["onnx", "openvino", "tensorrt"]),
    multiple=True,
    help="Repeatable (default: onnx and openvino).",
)
@click.option(
    "--precision", "precisions", type=click.Choice(["fp32", "fp16"]), multiple=True, help="Repeatable (default: fp32)."
)
@click.option("--policy", type=click.Choice(["nn", "router"]), help="How devices choose groups (default: nn, exact).")
@click.option("--opset", type=click.IntRange(13, 20), help="ONNX opset (default: 17; for tensorrt 16).")
@click.option("--batch", type=Batch(), default="dynamic", show_default=True, help="A free batch, or N for a fixed one.")
@click.option(
    "--winograd/--no-winograd",
    default=True,
    show_default=True,
    help="onnx fp32: 3x3 convolutions in the form that CPUs compute faster, or plain, as other tools know them.",
)
@click.option(
    "--weights",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Round weights first; int8: the decoder's, the others to fp16.",
)
@click.option(
    "--codebooks",
    type=click.Choice(["fp32", "fp16", "int8"]),
    default="fp32",
    show_default=True,
    help="Round codebooks first.",
)
@click.option("--name", help="The model's name in the manifest (default: the folder's).")
@click.option("--images", type=click.Path(path_type=Path), help="Folder or zip of pictures to check parity on as well.")
@click.option(
    "--limit", type=click.IntRange(1), default=200, show_default=True, help="Most pictures taken from --images."
)
@click.option("--replace", is_flag=True, help="Let a bundle of another model in --out go, with all its variants.")
@click.option("--json", "as_json", is_flag=True, is_eager=True, callback=list_targets, help="Print JSON.")
@click.option(
    "--list",
    "listing",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_targets,
    help="Show targets, what is installed, and fixes.",
)
def export(
    checkpoint: Path,
    out: Path,
    targets: tuple[str, ...],
    precisions: tuple[str, ...],
    policy: str | None,
    opset: int | None,
    batch: int | None,
    winograd: bool,
    weights: str,
    codebooks: str,
    name: str | None,
    images: Path | None,
    limit: int,
    replace: bool,
    as_json: bool,
) -> None:
    """Export a training checkpoint as a bundle; fails when the graphs disagree with torch.

    Repeating it into the same bundle adds variants; give the same --weights and --codebooks: others are another model.
    """
    module, request = part("export.export"), part("export.request").Request
    chosen = targets or _default_targets()
    forms = dict.fromkeys(precisions or ("fp32",))
    requests = [request(t, p, opset, batch, winograd) for t in dict.fromkeys(chosen) for p in forms]
    pictures = module.load_pictures(checkpoint, images, limit) if images else None
    result = module.export(
        checkpoint,
        out,
        requests=requests,
        name=name,
        policy=policy,
        weights=weights,
        codebooks=codebooks,
        images=pictures,
        replace=replace,
        progress=lambda step: click.echo(f"  {step}", err=True),
    )
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else result.summary())


def _default_targets() -> list[str]:
    """Those of the default targets that can be written here; the others are named, with the fix."""
    loader = part("export.targets")
    able = []
    for target in DEFAULT_TARGETS:
        try:
            loader.load_target(target)
            able.append(target)
        except BackendMissing as error:
            click.echo(f"  left out: {error}", err=True)
    return able or ["onnx"]
