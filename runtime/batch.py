"""Batches, format version 1 (docs/bitstream.md): many faces of one device under one header, what travels.

The header is paid once; a face costs its payload, its record (1 or 13 bytes) and a CRC-16. Integers are little-endian.
"""

from __future__ import annotations

import binascii
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import Corrupt, PacketError, UnsupportedVersion, WrongModel
from .packet import PacketFormat
from .parts import part
from .record import CRC16, Face, crc16, face_at, pack_face

MAGIC = b"STCB"
VERSION = 1
SEALED = 1
MAX_BATCH = 1 << 20
MAX_FACES = 0xFFFF
MAX_NUMBER = (1 << 63) - 1  # epochs and sequences fit SQL's bigint
HEADER = struct.Struct("<4sB32sQQQHB")
DEVICE = re.compile(r"[A-Za-z0-9._-]{1,64}")
CRC32 = 4
SEAL_BYTES = 28  # nonce and tag


@dataclass(frozen=True)
class Batch:
    """Faces with consecutive sequence numbers of one device and epoch.

    Attributes:
        device: [A-Za-z0-9._-]{1,64}.
        epoch: drawn anew when a device's memory of its sequence is lost; < 2**63.
        first: sequence of faces[0]; faces[i] has first + i.
        digest: the 32-byte model digest.
        time: the header's time, milliseconds since 1970 UTC; faces without a record have only this one.
    """

    device: str
    epoch: int
    first: int
    digest: bytes
    faces: list[Face] = field(repr=False)
    time: int = 0


class CutBatch(Corrupt):
    """A damaged batch whose whole faces could be told apart.

    Attributes:
        faces: (position, face) of each whole face.
        lost: how many are missing.
    """

    def __init__(self, faces: list[tuple[int, Face]], lost: int) -> None:
        """One line for the user."""
        total = len(faces) + lost
        super().__init__(f"batch is damaged: {lost} of {total} faces are lost, {len(faces)} are whole; send it again")
        self.faces, self.lost = faces, lost


def pack_batch(batch: Batch, key: bytes | None = None) -> bytes:
    """A batch as bytes.

    Args:
        batch: 1 to 65535 faces, all of one model.
        key: 32 bytes; None = not sealed.

    Raises:
        PacketError: a field that does not fit the format; the message says which.
        ValueError: the key has not 32 bytes.
    """
    if not DEVICE.fullmatch(batch.device):
        raise PacketError(f"device name {batch.device!r} is not 1 to 64 letters, digits, dots, dashes, underscores")
    if not 1 <= len(batch.faces) <= MAX_FACES:
        raise PacketError(f"a batch holds 1 to {MAX_FACES} faces, not {len(batch.faces)}")
    if not (0 <= batch.epoch <= MAX_NUMBER and 0 <= batch.first <= MAX_NUMBER - len(batch.faces)):
        raise PacketError(f"epoch {batch.epoch} or sequence {batch.first} is not in 0..2^63-1")
    if not isinstance(batch.time, int) or not 0 <= batch.time <= MAX_NUMBER:
        raise PacketError(f"time {batch.time} is no whole number of milliseconds since 1970")
    if {len(face.payload) for face in batch.faces} != {len(batch.faces[0].payload)} or len(batch.digest) != 32:
        raise PacketError("the payloads have different lengths; faces of two models cannot travel in one batch")
    name = batch.device.encode()
    flags = 0 if key is None else SEALED
    head = HEADER.pack(
        MAGIC, VERSION << 4 | flags, batch.digest, batch.epoch, batch.first, batch.time, len(batch.faces), len(name)
    )
    head += name
    seed = binascii.crc_hqx(head, 0)
    body = b"".join(pack_face(face, batch.time, seed, place) for place, face in enumerate(batch.faces))
    if key is not None:
        body = part("runtime.sealing").seal(key, body, head)
    packed = head + body
    packed += zlib.crc32(packed).to_bytes(CRC32, "little")
    if len(packed) > MAX_BATCH:
        raise PacketError(f"batch has {len(packed)} bytes, the limit is {MAX_BATCH}; put fewer faces in one")
    return packed


def unpack_batch(content: bytes, layouts: Mapping[bytes, PacketFormat], keys: Sequence[bytes] = ()) -> Batch:
    """Bytes -> the batch, after every check of docs/bitstream.md.

    Args:
        content: one whole batch.
        layouts: the known models by digest.
        keys: sealed batches are tried with each.

    Raises:
        CutBatch: damaged, but some faces are whole (only without a seal).
        Corrupt: damaged otherwise, or not sealed with one of the keys.
        UnsupportedVersion: another version or unknown flags.
        WrongModel: of a model that is not in `layouts`.
    """
    head, sealed = _read_head(content)
    intact = zlib.crc32(content[:-CRC32]) == int.from_bytes(content[-CRC32:], "little")
    _, _, digest, epoch, first, time, count, width = HEADER.unpack_from(content)
    layout = layouts.get(digest)
    if layout is None:
        if not intact:
            raise Corrupt("batch checksum does not match; it was damaged on the way: send it again")
        raise WrongModel(f"batch was written by model {digest[:4].hex()}; open the bundle that encoded it")
    name = content[HEADER.size : HEADER.size + width].decode("latin-1")
    if not intact:
        raise Corrupt("sealed batch was damaged: send it again") if sealed else _salvage(content, head, count, layout)
    if not DEVICE.fullmatch(name):
        raise Corrupt(f"batch has the device name {name!r}; no stcq wrote it")
    if epoch > MAX_NUMBER or first > MAX_NUMBER - count or not count:
        raise Corrupt(f"batch has epoch {epoch}, sequence {first} and {count} faces; no stcq wrote it")
    body = content[len(head) : -CRC32]
    if sealed:
        body = part("runtime.sealing").unseal(keys, body, head)
    faces = _unpack_faces(body, head, count, layout)
    return Batch(name, epoch, first, digest, faces, time)


def peek_device(content: bytes) -> str:
    """The device that a batch says it is from, before anything is checked; "" when it cannot be read."""
    if len(content) < HEADER.size:
        return ""
    name = content[HEADER.size : HEADER.size + content[HEADER.size - 1]].decode("latin-1")
    return name if DEVICE.fullmatch(name) else ""


def _read_head(content: bytes) -> tuple[bytes, bool]:
    """The header's bytes and whether the faces are sealed; sizes, magic, version and flags are checked."""
    if len(content) > MAX_BATCH:
        raise Corrupt(f"batch has {len(content)} bytes, the limit is {MAX_BATCH}; no stcq wrote it")
    if content[:4] != MAGIC[: len(content)] or len(content) < 5:
        raise Corrupt("this is no batch (it does not start with STCB)")
    if content[4] >> 4 != VERSION or content[4] & 15 & ~SEALED:
        raise UnsupportedVersion(
            f"batch has format version {content[4] >> 4} and flags {content[4] & 15}, "
            f"this stcq reads version {VERSION} with flags 0 or {SEALED}: upgrade stcq"
        )
    size = HEADER.size + (content[HEADER.size - 1] if len(content) >= HEADER.size else 0)
    if len(content) < size + CRC32:
        raise Corrupt(f"batch has {len(content)} bytes, less than its header; it was cut: send it again")
    return content[:size], bool(content[4] & SEALED)


def _unpack_faces(body: bytes, head: bytes, count: int, layout: PacketFormat) -> list[Face]:
    """Exactly `count` faces that fill the body."""
    seed, base = binascii.crc_hqx(head, 0), HEADER.unpack_from(head)[5]
    faces: list[Face] = []
    place = 0
    for index in range(count):
        face, end = face_at(body, place, layout.payload_bytes, base)
        if face is None or crc16(body[place : end - CRC16], seed, index) != body[end - CRC16 : end]:
            raise Corrupt(f"face {index} of the batch is damaged: send it again")
        faces.append(face)
        place = end
    if place != len(body):
        raise Corrupt(f"batch has {len(body) - place} bytes after its last face; no stcq wrote it")
    payloads = np.frombuffer(b"".join(face.payload for face in faces), np.uint8)
    layout.unpack_payload(payloads.reshape(count, -1))  # refuses groups, indices and padding that no encoder writes
    return faces


def _salvage(content: bytes, head: bytes, count: int, layout: PacketFormat) -> Corrupt:
    """The error for a damaged batch, with the faces whose CRC-16 fits."""
    seed, base = binascii.crc_hqx(head, 0), HEADER.unpack_from(head)[5]
    whole: list[tuple[int, Face]] = []
    place = len(head)
    for index in range(count):
        face, end = face_at(content, place, layout.payload_bytes, base)
        if face is None:
            break
        if crc16(content[place : end - CRC16], seed, index) == content[end - CRC16 : end]:
            whole.append((index, face))
        place = end
    return CutBatch(whole, count - len(whole))
