"""A face as it lies in the spool: one self-describing block of bytes, recognisable in a damaged file without SQLite."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ...errors import Corrupt, SpoolError
from ..parts import part
from ..record import RECORD, Record

MAGIC = b"SPE1"
HEAD = struct.Struct("<4sQQQ4sH")
CONTENT = struct.Struct("<32sq")
CRC = 4
PLAIN = bytes(4)
PAGE, PIECE = 8192, 1 << 20


class Stored(NamedTuple):
    """A face with its place in the order and its name for the server.

    Attributes:
        id: ascending through all epochs of a spool.
        epoch, sequence: what the server tells faces apart by.
        digest: the 32-byte digest of the model that wrote the payload.
        payload: P bytes.
        record: see runtime/batch.py.
    """

    id: int
    epoch: int
    sequence: int
    digest: bytes
    payload: bytes
    record: Record


def write_entry(face: Stored, key: bytes | None = None) -> bytes:
    """A face as bytes, sealed when there is a key (only id and order stay readable)."""
    r = face.record
    fields = RECORD.pack(0, r.track & 0xFFFF, *r.box, r.score, r.sharpness)
    content = CONTENT.pack(face.digest, r.time) + fields + face.payload
    name = PLAIN
    if key is not None:
        sealing = part("runtime.sealing")
        content, name = sealing.seal(key, content, _bound(face.id)), sealing.key_id(key)
    body = HEAD.pack(MAGIC, face.id, face.epoch, face.sequence, name, len(content)) + content
    return body + zlib.crc32(body).to_bytes(CRC, "little")


def read_entry(entry: bytes, key: bytes | None = None) -> Stored:
    """Bytes -> the face.

    Raises:
        Corrupt: damaged.
        SpoolError: sealed with another key.
    """
    if not is_whole(entry):
        raise Corrupt("spooled face is damaged")
    _, number, epoch, sequence, name, width = HEAD.unpack_from(entry)
    content = entry[HEAD.size : -CRC]
    if width != len(content):
        raise Corrupt("spooled face is damaged")
    if name != PLAIN:
        sealing = part("runtime.sealing")
        if key is None or sealing.key_id(key) != name:
            raise SpoolError("the spool's faces are sealed with another key; give spool.key the key they had")
        content = sealing.unseal([key], content, _bound(number))
    digest, time = CONTENT.unpack_from(content)
    _, track, left, top, across, down, score, sharpness = RECORD.unpack_from(content, CONTENT.size)
    record = Record(time, track, (left, top, across, down), score, sharpness)
    return Stored(number, epoch, sequence, digest, content[CONTENT.size + RECORD.size :], record)


def is_whole(entry: bytes) -> bool:
    """Whether the checksum fits."""
    fits = zlib.crc32(entry[:-CRC]) == int.from_bytes(entry[-CRC:], "little")
    return fits and len(entry) > HEAD.size + CRC and entry.startswith(MAGIC)


def rename_entry(entry: bytes, epoch: int, sequence: int) -> bytes:
    """The same face under another epoch and sequence; needs no key."""
    magic, number, _, _, name, width = HEAD.unpack_from(entry)
    body = HEAD.pack(magic, number, epoch, sequence, name, width) + entry[HEAD.size : -CRC]
    return body + zlib.crc32(body).to_bytes(CRC, "little")


def place_of(entry: bytes) -> tuple[int, int, int]:
    """The id, epoch and sequence of an undamaged entry."""
    _, number, epoch, sequence, _, _ = HEAD.unpack_from(entry)
    return number, epoch, sequence


def scan(path: Path) -> Iterator[bytes]:
    """Every undamaged entry in a file, whatever the rest of the file is.

    SQLite keeps a row of less than a page in one piece, so no B-tree is needed to find it.
    """
    if not path.is_file():
        return
    with path.open("rb", buffering=0) as file:
        rest = b""
        while piece := _read(file):
            content = rest + piece
            for found in re.finditer(re.escape(MAGIC), content):
                start = found.start()
                width = int.from_bytes(content[start + HEAD.size - 2 : start + HEAD.size], "little")
                entry = content[start : start + HEAD.size + width + CRC]
                if is_whole(entry):
                    yield entry
            rest = content[-PAGE:]  # an entry may lie across two pieces


def _read(file: BinaryIO | FileIO) -> bytes:
    """The next piece; a page that the disk cannot read any more counts as zeros."""
    try:
        return file.read(PIECE) or b""
    except OSError:
        place = file.tell()
        try:
            return file.read(PAGE) or b""
        except OSError:
            file.seek(place + PAGE)
            return bytes(PAGE)


def _bound(number: int) -> bytes:
    """What a sealed face is bound to: its place in this spool."""
    return MAGIC + number.to_bytes(8, "little")
