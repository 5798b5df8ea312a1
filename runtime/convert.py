"""Files to packets and back: what `stcq encode` and `stcq decode` do."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..errors import ImageError, PacketError, StcqError
from .codec import Codec
from .files import replace_file
from .images import open_image
from .packet import MAX_PACKET, from_file, to_file

STDIO = "-"


class Job(NamedTuple):
    """One input and where its result goes; "-" is standard input or output."""

    source: str
    target: str


def plan(sources: Sequence[str], out: str | None, suffix: str, force: bool) -> list[Job]:
    """Where each input's result goes.

    Args:
        sources: paths or "-".
        out: None = beside each input; "-" = standard output; a folder; or, for one input, a file.
        suffix: of the results, such as ".stcq".
        force: overwrite existing files that `out` does not name itself.

    Raises:
        StcqError: two inputs share a result, a result exists, or one output for several inputs.
    """
    if len(sources) > 1 and out is not None and (out == STDIO or not _is_folder(out)):
        raise StcqError(f"-o {out} is one file for {len(sources)} inputs; give a folder (end it with / to make it)")
    jobs = [Job(source, _target(source, out, suffix)) for source in sources]
    seen: dict[str, str] = {}
    inputs = {os.path.realpath(source) for source in sources if source != STDIO}
    for job in jobs:
        place = job.target if job.target == STDIO else os.path.realpath(job.target)
        if place in seen:
            raise StcqError(
                f"{seen[place]} and {job.source} would both be written to {job.target}; run them one by one with -o"
            )
        seen[place] = job.source
        if job.target == STDIO:
            continue
        if place in inputs:
            raise StcqError(f"{job.target} is an input too; give another -o")
        if job.target != out and not force and Path(job.target).exists():
            raise StcqError(f"{job.target} exists; give -o, or --force to overwrite it")
    return jobs


def _is_folder(out: str) -> bool:
    return out.endswith("/") or Path(out).is_dir()


def _target(source: str, out: str | None, suffix: str) -> str:
    if out is not None and not _is_folder(out):
        return out
    if source == STDIO:
        return STDIO if out is None else str(Path(out) / f"stdin{suffix}")
    path = Path(source)
    return str((path.parent if out is None else Path(out)) / (path.stem + suffix))


def encode_files(codec: Codec, jobs: Sequence[Job]) -> Iterator[tuple[Job, bytes | StcqError]]:
    """Encode each job's picture into a .stcq file; yields its packet, or the error that this one job had."""
    for job in jobs:
        try:
            content = _standard(sys.stdin).read() if job.source == STDIO else Path(job.source)
            packet = codec.encode(open_image(content))
            _write(job.target, to_file(packet))
            yield job, packet
        except StcqError as error:
            yield job, error


def decode_files(
    codec: Codec, jobs: Sequence[Job], format_name: str | None = None
) -> Iterator[tuple[Job, bytes | StcqError]]:
    """Decode each job's packet into a picture (format by the file's suffix, PNG to standard output)."""
    for job in jobs:
        try:
            packet = read_packet(job.source)
            image = Image.fromarray(codec.decode(packet))
            _write(job.target, _picture_bytes(image, format_name or _format_of(job.target)))
            yield job, packet
        except StcqError as error:
            yield job, error


def read_packet(source: str) -> bytes:
    """The packet of a .stcq file, a bare packet file, or "-" for standard input.

    Raises:
        PacketError: missing, unreadable, or too large to be a packet.
    """
    limit = MAX_PACKET + 4
    try:
        if source == STDIO:
            content = _standard(sys.stdin).read(limit + 1)
        else:
            with open(source, "rb") as file:
                content = file.read(limit + 1)
    except FileNotFoundError:
        raise PacketError(f"{source} does not exist; check the path") from None
    except OSError as error:
        raise PacketError(f"{source} cannot be read: {error.strerror}") from error
    if len(content) > limit:
        raise PacketError(f"{source} is larger than any packet ({MAX_PACKET} bytes); give a .stcq file")
    return from_file(content)


def _standard(stream: Any) -> Any:
    """Standard input or output for bytes."""
    if stream is None:
        raise StcqError('"-" is standard input or output, which is closed here; name a file')
    return stream.buffer


def _format_of(target: str) -> str:
    """Pillow's format name for a file's suffix."""
    if target == STDIO:
        return "PNG"
    suffix = Path(target).suffix.lower()
    found = Image.registered_extensions().get(suffix)
    if found is None or found not in Image.SAVE:
        raise ImageError(
            f"{target}: pictures cannot be written as {suffix or 'a file without suffix'}; use .png, .jpg or .webp"
        )
    return found


def _picture_bytes(image: Image.Image, format_name: str) -> bytes:
    buffer = io.BytesIO()
    options = {"quality": 95} if format_name in ("JPEG", "WEBP", "AVIF") else {}
    try:
        image.save(buffer, format_name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"{format_name} cannot hold this picture ({error}); use .png") from error
    return buffer.getvalue()


def _write(target: str, content: bytes) -> None:
    """Write a whole file or nothing."""
    path = Path(target)
    try:
        if target == STDIO:
            stream = _standard(sys.stdout)
            stream.write(content)
            stream.flush()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda temporary: temporary.write_bytes(content))
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StcqError(f"{target} cannot be written: {error.strerror}; nothing was left there") from error
