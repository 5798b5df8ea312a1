"""`stcq profile`, also as `stcq-profile`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ..errors import StcqError
from ..runtime.bundle import EMBEDDED
from ..runtime.files import replace_file
from ..runtime.parts import part

FILE = click.Path(path_type=Path, dir_okay=False)
MOST = 1024
PLOTS = (".png", ".svg", ".pdf")


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """ "1,2" as (1, 2)."""
    try:
        found = tuple(dict.fromkeys(int(item) for item in value.split(",")))
    except ValueError:
        found = ()
    if not found or not all(1 <= number <= MOST for number in found):
        raise click.BadParameter(f"{value!r} is no list of numbers from 1 to {MOST}, such as 1,2")
    return found


def names(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """Repeated or comma-separated names as one tuple."""
    return tuple(dict.fromkeys(name for value in values for name in value.split(",") if name))


def plot_name(context: click.Context, option: click.Parameter, value: Path | None) -> Path | None:
    """A file whose name says what to draw."""
    if value is not None and value.suffix.lower() not in ("", *PLOTS):
        raise click.BadParameter(f"{value} is no picture that can be drawn; give a name with {', '.join(PLOTS)}")
    return value


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), default=EMBEDDED)
@click.option(
    "--variant", multiple=True, callback=names, help="Such as onnx-fp32,openvino-fp16 (default: all that run here)."
)
@click.option("--backend", multiple=True, callback=names, help="Only variants of onnxruntime, openvino or tensorrt.")
@click.option("--threads", default="1", show_default=True, callback=numbers, help="CPU threads, such as 1,2.")
@click.option("--batch", default="1", show_default=True, callback=numbers, help="Faces at a time, such as 1,8.")
@click.option("--stage", type=click.Choice(["encode", "decode", "all"]), default="all", show_default=True)
@click.option("--policy", type=click.Choice(["nn", "router"]), help="Group selection (default: the bundle's).")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="For each run.")
@click.option(
    "--cold", type=click.IntRange(0, 100), default=3, show_default=True, help="Fresh processes for the cold start."
)
@click.option("--image", type=FILE, help="Picture to encode (default: the embedded face as a JPEG of 256 x 256).")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Write the profile; - = standard output.",
)
@click.option("--html", "html_file", type=FILE, help="Write a page with tables and bars.")
@click.option(
    "--plot",
    "plot_file",
    type=FILE,
    callback=plot_name,
    help="Write a picture (.png, .svg or .pdf); needs stcq[profile].",
)
@click.option("--compare", nargs=2, type=FILE, metavar="A.json B.json", help="Measure nothing: compare two profiles.")
def profile(bundle: Path, compare: tuple[Path, Path] | None, **options: Any) -> None:
    """Measure a bundle on this machine: time by stage, memory, cold start, and how far the figures can be trusted."""
    if compare and (options["html_file"] or options["plot_file"]):
        raise click.UsageError("--compare writes a table and --json, no --html and no --plot; leave these out")
    for file in (options["json_file"], options["html_file"], options["plot_file"], options["image"]):
        if file is not None and str(file) != "-" and not file.parent.is_dir():
            raise StcqError(f"the folder {file.parent} does not exist; make it first")
    if compare:
        _compare(*compare, options["json_file"])
        return
    draw = part("profiling.plot").plot if options["plot_file"] else None  # before minutes of measuring
    document = _measure(bundle, options)
    if str(options["json_file"]) != "-":
        click.echo(part("profiling.tables").as_text(document))
    _write_json(document, options["json_file"])
    if options["html_file"]:
        content = part("profiling.html").page(document)
        replace_file(options["html_file"], lambda path: path.write_text(content, encoding="utf-8"))
    if draw:
        suffix = options["plot_file"].suffix.lower() or ".png"
        replace_file(options["plot_file"], lambda path: draw(document, path, suffix.removeprefix(".")))


def _measure(bundle: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The profile of a bundle by the command's options, with a line of progress on a terminal."""
    module = part("profiling.profile")
    kinds = ("encode", "decode") if options["stage"] == "all" else (options["stage"],)
    plan = module.Plan(
        variants=options["variant"],
        backends=options["backend"],
        threads=options["threads"],
        batches=options["batch"],
        kinds=kinds,
        policy=options["policy"],
        seconds=options["seconds"],
        cold=options["cold"] if "encode" in kinds else 0,
    )
    try:
        picture = options["image"].read_bytes() if options["image"] else None
    except OSError as error:
        raise StcqError(f"{options['image']} cannot be read: {error.strerror or error}") from error

    def progress(line: str) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\33[K{line}", err=True, nl=False)

    document: dict[str, Any] = module.profile(bundle, plan, picture, progress)
    progress("")
    return document


def _compare(first: Path, second: Path, json_file: Path | None) -> None:
    """Print two profiles side by side."""
    module, tables = part("profiling.compare"), part("profiling.tables")
    found = module.compare(module.read(first), module.read(second))
    if str(json_file) != "-":
        click.echo(tables.text_table(tables.comparison_table(found)))
        for key in ("only_in_first", "only_in_second"):
            if found[key]:
                click.echo(f"{key.replace('_', ' ')}: {', '.join(found[key])}")
        for sentence in found["warnings"]:
            click.echo(f"warning: {sentence}")
    _write_json(found, json_file)


def _write_json(document: dict[str, Any], path: Path | None) -> None:
    """To a file, in one step, or to standard output; nothing without a path."""
    content = json.dumps(document, indent=2) + "\n"
    if path is not None and str(path) == "-":
        click.echo(content, nl=False)
    elif path is not None:
        replace_file(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))
