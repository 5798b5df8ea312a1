"""The `stcq` command: one thin function per verb, each calling one library function."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from . import __version__
from .errors import BackendMissing, StcqError
from .runtime.bundle import EMBEDDED, Bundle
from .runtime.codec import Codec
from .runtime.convert import STDIO, decode_files, encode_files, plan

EXTRAS = {
    "export.export": "export",
    "evaluation.command": "eval",
    "training.train": "train",
    "training.recipe": "train",
    "training.data": "train",
}


class Group(click.Group):
    """Turns the error tree into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; no traceback reaches a user for bad input."""
        try:
            return super().invoke(ctx)
        except StcqError as error:
            fail(error)
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(141)


def fail(error: StcqError) -> NoReturn:
    """Print the error and leave with its exit code."""
    click.echo(f"error: {error}", err=True)
    sys.exit(error.exit_code)


def part(name: str) -> Any:
    """A module of an optional part of stcq.

    Raises:
        BackendMissing: its libraries are not installed; the message names the extra.
    """
    try:
        return importlib.import_module(f".{name}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("stcq"):
            raise
        raise BackendMissing(f"this needs {error.name}; run: pip install 'stcq[{EXTRAS.get(name, 'dev')}]'") from error


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
force_option = click.option("--force", is_flag=True, help="Overwrite existing results.")


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="stcq")
def main() -> None:
    """Faces in a few dozen bytes: encode, decode, export and train."""


@main.command()
@click.argument("images", nargs=-1, required=True)
@click.option("-o", "--out", help="Result file, a folder, or - for standard output (default: beside each image).")
@codec_options
@force_option
@json_option
def encode(
    images: tuple[str, ...],
    out: str | None,
    bundle: Path | None,
    variant: str,
    policy: str | None,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Encode pictures ("-" = standard input) into .stcq packets."""
    jobs = plan(images, out, ".stcq", force)
    with Codec.load(bundle, variant=variant, policy=policy, threads=threads) as codec:
        _run(encode_files(codec, jobs), len(jobs), as_json)


@main.command()
@click.argument("packets", nargs=-1, required=True)
@click.option("-o", "--out", help="Picture file, a folder, or - for standard output (default: beside each packet).")
@codec_options
@force_option
@json_option
def decode(
    packets: tuple[str, ...],
    out: str | None,
    bundle: Path | None,
    variant: str,
    policy: str | None,
    threads: int | None,
    force: bool,
    as_json: bool,
) -> None:
    """Decode .stcq packets ("-" = standard input) into pictures (PNG unless -o names another suffix)."""
    jobs = plan(packets, out, ".png", force)
    with Codec.load(bundle, variant=variant, policy=policy, threads=threads) as codec:
        _run(decode_files(codec, jobs), len(jobs), as_json)


@main.command()
@click.argument("source", default=str(EMBEDDED), metavar="[BUNDLE|PACKET]")
@click.option(
    "--bundle",
    "-b",
    type=click.Path(path_type=Path),
    help="Bundle to check a packet against (default: the embedded one).",
)
@json_option
def inspect(source: str, bundle: Path | None, as_json: bool) -> None:
    """Describe a bundle or a packet (default: the embedded bundle)."""
    facts = part("runtime.inspect").inspect(source, Bundle(bundle or EMBEDDED))
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path), default=EMBEDDED)
@click.option("--variant", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1))
@json_option
def verify(bundle: Path, variant: str, threads: int | None, as_json: bool) -> None:
    """Check a bundle's files and that this machine computes its golden results."""
    report = part("runtime.verify").verify(Codec.load(bundle, variant=variant, threads=threads))
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else as_text(report.to_dict()))
    if not report.passed:
        sys.exit(1)


@main.command()
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


@main.command()
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


@main.command()
@click.argument("codec", type=click.Path(path_type=Path), metavar="BUNDLE|CHECKPOINT", default=EMBEDDED)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder, zip or InsightFace .bin.")
@click.option("--recognizer", type=click.Path(path_type=Path), required=True, help="ONNX face recogniser.")
@click.option("--crop", default=1.0, show_default=True, help="Side of the face crop over the picture's shorter side.")
@click.option("--limit", type=click.IntRange(1), help="Most pictures, evenly spaced; leaves out verification.")
@click.option(
    "--pairs", type=click.Path(path_type=Path), help="Verification pairs (default: made from the folders' people)."
)
@click.option("--peers", help="Classical codecs to compare with, such as jpeg,jpeg2000,webp,avif,jxl.")
@click.option("--policy", type=click.Choice(["nn", "router"]), help="Group selection (default: the bundle's).")
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
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure a codec: bytes, PSNR, MS-SSIM, IDS, verification, code usage, and peers at equal bytes."""
    command = part("evaluation.command")
    result = command.run(codec, images, recognizer, crop, limit, pairs, peers.split(",") if peers else [], policy, out)
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else command.table(result))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Folder or zip of faces; repeat for several.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory.")
@click.option("--val", type=click.Path(path_type=Path), help="Pictures of other people, for the figures in the log.")
@click.option("--recognizer", type=click.Path(path_type=Path), help="ONNX face recogniser for the identity loss.")
@click.option(
    "--stage", "stages", type=click.Choice(["base", "books", "decoder"]), multiple=True, help="Only these stages."
)
@click.option("--resume", is_flag=True, help="Go on after an interruption.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def train(
    recipe: Path,
    data: Sequence[Path],
    out: Path,
    val: Path | None,
    recognizer: Path | None,
    stages: Sequence[str],
    resume: bool,
    device: str,
    threads: int | None,
) -> None:
    """Train a codec: base tokenizer, switchable codebooks, decoder."""
    module = part("training.train")
    last = module.train(
        part("training.recipe").read_recipe(recipe),
        data,
        out,
        validation=val,
        recognizer=recognizer,
        stages=stages or module.STAGES,
        resume=resume,
        device=device,
        threads=threads,
    )
    click.echo(f"checkpoint: {last}")


def export_main() -> None:
    """The `stcq-export` command: `stcq export` under the name that users of exporters look for."""
    try:
        export(prog_name="stcq-export")
    except StcqError as error:
        fail(error)


def _run(results: Any, count: int, as_json: bool) -> None:
    """Drive conversions: a progress bar when there are many, one line per error, the first error's exit code."""
    records: list[dict[str, Any]] = []
    first: StcqError | None = None
    with click.progressbar(results, length=count, file=sys.stderr, hidden=count < 5) as bar:
        for job, outcome in bar:
            failed = isinstance(outcome, StcqError)
            records.append(
                {"input": job.source, "output": None if failed else job.target}
                | ({"error": str(outcome)} if failed else {"packet_bytes": len(outcome)})
            )
            if failed:
                first = first or outcome
                click.echo(f"error: {outcome}" if count == 1 else f"error: {job.source}: {outcome}", err=True)
    if as_json:
        click.echo(json.dumps(records, indent=2), err=any(record["output"] == STDIO for record in records))
    if first is not None:
        sys.exit(first.exit_code)


def as_text(facts: dict[str, Any], indent: str = "") -> str:
    """A nested dictionary as indented lines."""
    lines = []
    for key, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{key}:", as_text(value, indent + "  ")]
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            lines.append(f"{indent}{key}:")
            lines += [as_text(item, indent + "  ") for item in value]
        else:
            shown = " ".join(map(str, value)) if isinstance(value, list | tuple) else value
            lines.append(f"{indent}{key}: {shown}")
    return "\n".join(line for line in lines if line)
