"""The `stcq camera` command."""

from __future__ import annotations

import json
import logging
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..batch import CRC32, HEADER
from ..options import json_option
from ..parts import part
from ..record import CRC16, RECORD

path = click.Path(path_type=Path)


@click.command()
@click.argument("config", type=path)
@click.option("--detector", type=path, help="YuNet model; finds faces with landmarks instead of OpenCV's cascade.")
@click.option("--dry-run", is_flag=True, help="Keep and send nothing; print what it would cost.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Stop after this time.")
@click.option(
    "--preview", type=click.IntRange(1, 65535), metavar="PORT", help="Show what the camera sees on this port."
)
@click.option("--status", is_flag=True, help="Say how the running camera is, and stop; exit code 1 when it is not.")
@json_option
def camera(
    config: Path,
    detector: Path | None,
    dry_run: bool,
    seconds: float | None,
    preview: int | None,
    status: bool,
    as_json: bool,
) -> None:
    """Find faces, compress each to a few dozen bytes, keep them safely and send them."""
    options = part("runtime.camera.config").read_config(config)
    if status:
        found = part("runtime.camera.status").read_status(options.path(options.status))
        click.echo(json.dumps(found, indent=2) if as_json else as_lines(found))
        sys.exit(0 if found["alive"] else 1)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    if detector is not None:
        chosen = replace(options.detect, method="yunet", file=str(detector.absolute()))
        options = replace(options, detect=chosen)
    if preview is not None:
        options = replace(options, preview=preview)
    running = part("runtime.camera.loop").Camera(options, dry=dry_run)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: running.stop())
    result = running.run(seconds)
    if dry_run:
        result["estimate"] = estimate(result, options.upload.metadata, options.upload.batch_faces, len(options.device))
    click.echo(json.dumps(result, indent=2) if as_json else as_lines(result))


def estimate(status: dict[str, Any], metadata: bool, batch_faces: int, name: int) -> dict[str, float]:
    """What a run would have cost to send.

    Args:
        status: of the run.
        metadata: whether records travel.
        batch_faces: faces in a full batch.
        name: length of the device's name.
    """
    faces, seconds = status["faces"], status["seconds"]
    payload = status["payload_bytes"] / faces if faces else 0.0
    header = (HEADER.size + name + CRC32) / max(1, min(batch_faces, faces))
    each = payload + 1 + (RECORD.size if metadata else 0) + CRC16 + header if faces else 0.0
    rate = faces / seconds if seconds else 0.0
    return {
        "faces_per_second": round(rate, 3),
        "payload_bytes_per_face": round(payload, 1),
        "bytes_per_face": round(each, 1),
        "bytes_per_day": round(rate * each * 86_400),
    }


def as_lines(facts: dict[str, Any], indent: str = "") -> str:
    """A nested dictionary as lines."""
    lines = []
    for name, value in facts.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", as_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines)
