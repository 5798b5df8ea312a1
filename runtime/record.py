"""A face in a batch: its payload, what the camera knows about it, and a CRC-16 (docs/bitstream.md)."""

from __future__ import annotations

import binascii
import struct
from typing import NamedTuple

from ..errors import PacketError

RECORD = struct.Struct("<iH4BBB")
CRC16 = 2
MAX_SPREAD = (1 << 31) - 1  # milliseconds that a face's time may be from its batch's


class Record(NamedTuple):
    """What a camera knows about a face besides its picture.

    Attributes:
        time: capture time by the device's clock, milliseconds since 1970 UTC.
        track: the camera's number for the person in view, modulo 65536.
        box: left, top, width, height in the frame, in 1/255 of its width or height.
        score: the detector's confidence, 0..255.
        sharpness: 0..255.
    """

    time: int
    track: int = 0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)
    score: int = 0
    sharpness: int = 0


class Face(NamedTuple):
    """One face of a batch: the P payload bytes of its packet, and its record where one was kept."""

    payload: bytes
    record: Record | None = None


def pack_face(face: Face, base: int, seed: int, place: int) -> bytes:
    """Payload, record and CRC-16 of one face."""
    body = face.payload + b"\0"
    if face.record is not None:
        r = face.record
        try:
            fields = RECORD.pack(r.time - base, r.track & 0xFFFF, *r.box, r.score, r.sharpness)
        except struct.error as error:
            raise PacketError(f"record {r} does not fit the format: {error}") from None
        body = face.payload + bytes([RECORD.size]) + fields
    return body + crc16(body, seed, place)


def crc16(body: bytes, seed: int, place: int) -> bytes:
    """CRC-16 (CCITT polynomial) of a face, started with the header and the face's position in the batch."""
    start = binascii.crc_hqx(place.to_bytes(2, "little"), seed)
    return binascii.crc_hqx(body, start).to_bytes(CRC16, "little")


def face_at(body: bytes, place: int, payload_bytes: int, base: int) -> tuple[Face | None, int]:
    """The face at a place and where the next one starts; None when it is cut or its record has another length."""
    start = place + payload_bytes
    width = body[start] if start < len(body) else 255
    end = start + 1 + width + CRC16
    if width not in (0, RECORD.size) or end > len(body):
        return None, end
    if not width:
        return Face(body[place:start]), end
    offset, track, left, top, across, down, score, sharpness = RECORD.unpack_from(body, start + 1)
    return Face(body[place:start], Record(base + offset, track, (left, top, across, down), score, sharpness)), end
