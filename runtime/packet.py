"""Packets, format version 1 (docs/bitstream.md): integer arithmetic only, most significant bit first."""

from __future__ import annotations

import zlib
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import Corrupt, PacketError, UnsupportedVersion, WrongModel
from .bits import Ints, pack_bits, unpack_bits

VERSION = 1
MAGIC = b"STCQ"
TAG, TAIL = 4, 4
CODED = 1  # bit 0 of a packet's first byte: the payload is entropy-coded
COMPACT = 2  # bit 1: the frame has no model tag; the checksum alone tells models apart
MAX_PACKET = 4096


def is_coded(packet: bytes) -> bool:
    """Whether a packet says that its payload is entropy-coded (`entropy`)."""
    return bool(packet) and packet[0] & ~COMPACT == VERSION << 4 | CODED


def tag_of(packet: bytes) -> bytes | None:
    """The first 4 bytes of the model's digest that a packet of this version carries; None: it carries none."""
    tagged = len(packet) > TAG and packet[0] >> 4 == VERSION and not packet[0] & COMPACT
    return packet[1 : 1 + TAG] if tagged else None


class PacketFormat(NamedTuple):
    """The layout of one model's packets.

    Attributes:
        tokens, codes, groups: T, K, M of the bundle.
        digest: the 32-byte model digest.
    """

    tokens: int
    codes: int
    groups: int
    digest: bytes

    @property
    def group_bits(self) -> int:
        """ceil(log2 M)."""
        return (self.groups - 1).bit_length()

    @property
    def code_bits(self) -> int:
        """ceil(log2 K)."""
        return (self.codes - 1).bit_length()

    @property
    def payload_bits(self) -> int:
        """ceil(log2 M) + T * ceil(log2 K)."""
        return self.group_bits + self.tokens * self.code_bits

    @property
    def payload_bytes(self) -> int:
        """P: the payload bits rounded up to whole bytes."""
        return (self.payload_bits + 7) // 8

    @property
    def packet_bytes(self) -> int:
        """P + 9."""
        return self.compact_bytes + TAG

    @property
    def compact_bytes(self) -> int:
        """P + 5: a packet without the model's tag."""
        return 1 + self.payload_bytes + TAIL

    def pack_payload(self, group: Ints, indices: Ints) -> NDArray[np.uint8]:
        """Group (B,) and indices (B, T), any integer type -> payloads (B, P) uint8.

        Raises:
            PacketError: a shape or a value does not fit the model.
        """
        group, indices = np.atleast_1d(group), np.atleast_2d(indices)
        if group.ndim != 1:
            raise PacketError(f"group has shape {group.shape}, give (B,)")
        if indices.shape != (len(group), self.tokens):
            raise PacketError(f"indices have shape {indices.shape}, this model needs {(len(group), self.tokens)}")
        self._check(group, indices, PacketError)
        return pack_bits(group, indices, self.group_bits, self.code_bits)

    def unpack_payload(self, payloads: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Payloads (B, P) uint8 -> group (B,) int32 and indices (B, T) int32.

        Raises:
            Corrupt: an index >= K, a group >= M or a padding bit that is not zero.
        """
        group, indices = unpack_bits(payloads, self.tokens, self.group_bits, self.code_bits)
        self._check(group, indices, Corrupt)
        return group, indices

    def pack(self, group: Ints, indices: Ints, compact: bool = False) -> list[bytes]:
        """Group (B,) and indices (B, T) -> B standalone packets, without the model's tag if `compact`."""
        payloads, size = self.pack_payload(group, indices), self.payload_bytes
        flat = payloads.tobytes()
        return self._frames([flat[n * size : (n + 1) * size] for n in range(len(payloads))], COMPACT * compact)

    def unpack(self, packets: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Standalone packets, compact or not -> group (B,) int32 and indices (B, T) int32.

        Raises:
            WrongModel: a packet of another model.
            UnsupportedVersion: another format version or unknown flags.
            Corrupt: anything else that is not exactly what `pack` writes; a compact packet of another model too.
        """
        payloads = [self._payload(packet) for packet in packets]
        if not payloads:
            return np.zeros(0, np.int32), np.zeros((0, self.tokens), np.int32)
        return self.unpack_payload(np.frombuffer(b"".join(payloads), np.uint8).reshape(len(payloads), -1))

    def frame(self, payload: bytes, flags: int = 0, tables: bytes = b"") -> bytes:
        """The packet around a payload: first byte, the model's tag unless COMPACT, payload, checksum.

        Args:
            payload: plain or coded.
            flags: CODED, COMPACT or both.
            tables: identity of the tables that coded it, which the checksum covers.
        """
        return self._frames([payload], flags, tables)[0]

    def verify_header(self, packet: bytes, flags: int = 0) -> int:
        """Refuse a packet that has other flags than these, COMPACT or not; returns where its payload begins.

        Raises:
            Corrupt: it is longer or shorter than any packet.
            UnsupportedVersion: another format version or other flags.
            WrongModel: it carries another model's tag.
        """
        if not TAIL < len(packet) <= MAX_PACKET:
            raise Corrupt(f"packet has {len(packet)} bytes, expected {self.packet_bytes}; it is cut or no packet")
        if packet[0] & ~COMPACT != VERSION << 4 | flags:
            raise UnsupportedVersion(
                f"packet has format version {packet[0] >> 4} and flags {packet[0] & 15}, this stcq reads version "
                f"{VERSION} here with flags {flags} and {flags | COMPACT}: open the bundle with the tables that coded "
                "it, or upgrade stcq, or check that it is a packet"
            )
        if packet[0] & COMPACT:
            return 1
        if packet[1 : 1 + TAG] != self.digest[:TAG]:
            raise WrongModel(
                f"packet was written by model {packet[1 : 1 + TAG].hex()}, the open bundle is "
                f"{self.digest[:TAG].hex()}; open the bundle that encoded it"
            )
        return 1 + TAG

    def verify_checksum(self, packet: bytes, tables: bytes = b"") -> None:
        """Raise Corrupt unless the packet ends in its own checksum."""
        if packet[-TAIL:] == _checksum(packet[:-TAIL], zlib.crc32(tables, zlib.crc32(self.digest))):
            return
        causes = ["damaged on the way"]
        causes += ["coded with the tables of another calibration of this model"] if tables else []
        causes += ["written by another model than the open bundle"] if packet[0] & COMPACT else []
        bundle = ", or open the bundle that encoded it" if causes[1:] else ""
        raise Corrupt(f"packet checksum does not match; it was {', or '.join(causes)}: ask the sender again{bundle}")

    def _payload(self, packet: bytes) -> bytes:
        """The payload of one packet whose frame is right in every byte."""
        start = self.verify_header(packet)
        if len(packet) != start + self.payload_bytes + TAIL:
            other = ", or it is another model's: open the bundle that encoded it" if packet[0] & COMPACT else ""
            raise Corrupt(
                f"packet has {len(packet)} bytes, expected {start + self.payload_bytes + TAIL}; it was cut or "
                f"something was added{other}"
            )
        self.verify_checksum(packet)
        return packet[start:-TAIL]

    def _frames(self, payloads: list[bytes], flags: int = 0, tables: bytes = b"") -> list[bytes]:
        """See `frame`."""
        head = bytes([VERSION << 4 | flags]) + (b"" if flags & COMPACT else self.digest[:TAG])
        start = zlib.crc32(tables, zlib.crc32(self.digest))
        return [framed + _checksum(framed, start) for framed in (head + payload for payload in payloads)]

    def _check(self, group: Ints, indices: Ints, error: type[PacketError]) -> None:
        """Refuse groups outside [0, M) and indices outside [0, K)."""
        for name, values, limit in (("group", group, self.groups), ("index", indices, self.codes)):
            if not values.size:
                continue
            if values.dtype.kind not in "iu":
                raise error(f"{name} has type {values.dtype}; give integers")
            unsigned = values.view(_unsigned(values.dtype))  # negative ones become large
            if np.maximum.reduce(unsigned, axis=None) >= limit:
                wrong = values[unsigned >= limit]
                raise error(f"{name} {int(wrong.flat[0])} is outside 0..{limit - 1}; not a packet of this model")


@cache
def _unsigned(kind: np.dtype[Any]) -> np.dtype[Any]:
    """The unsigned integer of a kind's size and byte order."""
    return np.dtype(kind.str.replace("i", "u"))


def _checksum(framed: bytes, start: int) -> bytes:
    """CRC-32 of a packet without its last four bytes, going on from that of full digest and tables; little-endian."""
    return zlib.crc32(framed, start).to_bytes(TAIL, "little")


def to_file(packet: bytes) -> bytes:
    """The content of a .stcq file: the magic and one packet."""
    return MAGIC + packet


def from_file(content: bytes) -> bytes:
    """The packet in a .stcq file's content; a bare packet is accepted too."""
    return content[len(MAGIC) :] if content.startswith(MAGIC) else content
