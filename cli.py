"""The `stcq` command: one thin function per verb, each calling one library function."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import click

from . import __version__
from .errors import StcqError
from .runtime.bundle import EMBEDDED, Bundle
from .runtime.codec import Codec
from .runtime.convert import STDIO, decode_files, encode_files, plan
from .runtime.options import codec_options, json_option
from .runtime.parts import part

COMMANDS = {
    "ablate": ("evaluation.cli", "ablate"),
    "build": ("runtime.cli", "build"),
    "calibrate": ("calibration.cli", "calibrate"),
    "camera": ("runtime.camera.cli", "camera"),
    "demo": ("evaluation.cli", "demo"),
    "doctor": ("runtime.cli", "doctor"),
    "evaluate": ("evaluation.cli", "evaluate"),
    "export": ("export.cli", "export"),
    "fit-codebooks": ("training.cli", "fit_codebooks"),
    "import": ("models.cli", "import_"),
    "info": ("models.cli", "info"),
    "profile": ("profiling.cli", "profile"),
    "serve": ("server.cli", "serve"),
    "token": ("server.cli", "token"),
    "train": ("training.cli", "train"),
}


class Group(click.Group):
    """Imports a development host's command when it is used; turns the error tree into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, also those not imported yet."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A verb's command."""
        return command(cmd_name) if cmd_name in COMMANDS else super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; no traceback reaches a user for bad input."""
        with plain_errors():
            return super().invoke(ctx)


@contextmanager
def plain_errors() -> Iterator[None]:
    """One line and an exit code in the place of the traceback of bad input or a full disk."""
    try:
        yield
    except StcqError as error:
        fail(error)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    except OSError as error:  # a full disk under standard output or a training run
        where = f": {error.filename}" if error.filename else ""
        fail(StcqError(f"{error.strerror or error}{where}; nothing half-written was left"))


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
@click.option("--entropy", is_flag=True, help="Shorter packets, by the bundle's code frequencies.")
@click.option("--compact", is_flag=True, help="Packets without the model's tag, 4 bytes shorter.")
@force_option
@json_option
def encode(
    images: tuple[str, ...],
    out: str | None,
    bundle: Path | None,
    variant: str,
    policy: str | None,
    threads: int | None,
    entropy: bool,
    compact: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Encode pictures ("-" = standard input) into .stcq packets."""
    jobs = plan(images, out, ".stcq", force)
    with Codec.load(bundle, variant=variant, policy=policy, threads=threads, entropy=entropy, compact=compact) as codec:
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
    against = Bundle(bundle or EMBEDDED)
    try:
        facts = part("runtime.inspect").inspect(source, against)
    finally:
        against.close()
    click.echo(json.dumps(facts, indent=2) if as_json else as_text(facts))


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path), default=EMBEDDED)
@click.option("--variant", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1))
@json_option
def verify(bundle: Path, variant: str, threads: int | None, as_json: bool) -> None:
    """Check a bundle's files and that this machine computes its golden results."""
    with Codec.load(bundle, variant=variant, threads=threads) as codec:
        report = part("runtime.verify").verify(codec)
    click.echo(json.dumps(report.to_dict(), indent=2) if as_json else report.to_text())
    if not report.passed:
        sys.exit(1)


def command(name: str) -> click.Command:
    """A command of COMMANDS, imported now."""
    module, attribute = COMMANDS[name]
    found: click.Command = getattr(importlib.import_module(f".{module}", __package__), attribute)
    return found


def run() -> NoReturn:
    """The `stcq` command's entry point.

    Leaves without Python's teardown, which takes a tenth of a second that a camera's script would wait for, unless
    torch is loaded, whose worker processes want an orderly end.
    """
    code: Any = 0
    try:
        main()
    except SystemExit as leaving:
        code = leaving.code
    if "torch" in sys.modules or not isinstance(code, int | None):
        sys.exit(code)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # the reader has gone, or the stream is closed already
            code = code or 1
    os._exit(code or 0)


def export_main() -> None:
    """The `stcq-export` command: `stcq export` under the name that users of exporters look for."""
    _alone("export")


def profile_main() -> None:
    """The `stcq-profile` command: `stcq profile`."""
    _alone("profile")


def _alone(name: str) -> None:
    """Run one verb as a command of its own."""
    with plain_errors():
        command(name)(prog_name=f"stcq-{name}")


def _run(results: Any, count: int, as_json: bool) -> None:
    """Drive conversions: a progress bar when there are many, one line per error, the first error's exit code."""
    records: list[dict[str, Any]] = []
    first: StcqError | None = None
    many = count >= 5  # below, the bar's own imports would be most of its time
    with click.progressbar(results, length=count, file=sys.stderr) if many else nullcontext(results) as bar:
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
