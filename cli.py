"""The `stcq` command: one thin function per verb, each calling one library function."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NoReturn

import click

from . import __version__
from .errors import StcqError
from .evaluation.cli import demo, evaluate
from .export.cli import export
from .runtime.bundle import EMBEDDED, Bundle
from .runtime.codec import Codec
from .runtime.convert import STDIO, decode_files, encode_files, plan
from .runtime.options import codec_options, json_option
from .runtime.parts import part
from .training.cli import fit_codebooks, train


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


for command in (export, evaluate, demo, train, fit_codebooks):
    main.add_command(command)


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
