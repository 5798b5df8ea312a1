"""Packets, format version 1 (docs/bitstream.md): integer arithmetic only, most significant bit first."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import Corrupt, PacketError, UnsupportedVersion, WrongModel

VERSION = 1
MAGIC = b"STCQ"
TAG, TAIL = 4, 4
CODED = 1  # bit 0 of a packet's first byte: the payload is entropy-coded
COMPACT = 2  # bit 1: the frame has no model tag; the checksum alone tells models apart
MAX_PACKET = 4096
PIECE = 1 << 17  # bytes
Ints = NDArray[np.integer[Any]]


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
        if indices.shape != (len(group), self.tokens):
            raise PacketError(f"indices have shape {indices.shape}, this model needs {(len(group), self.tokens)}")
        self._check(group, indices, PacketError)
        payloads = np.empty((len(group), self.payload_bytes), np.uint8)
        for some in self._pieces(len(group)):
            bits = np.zeros((len(group[some]), self.payload_bytes * 8), np.uint8)
            bits[:, : self.group_bits] = _to_bits(group[some], self.group_bits)
            tokens = _to_bits(indices[some], self.code_bits)  # (B, T, code_bits)
            bits[:, self.group_bits : self.payload_bits] = tokens.reshape(len(bits), self.tokens * self.code_bits)
            payloads[some] = np.packbits(bits, axis=1)
        return payloads

    def unpack_payload(self, payloads: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Payloads (B, P) uint8 -> group (B,) int32 and indices (B, T) int32.

        Raises:
            Corrupt: an index >= K, a group >= M or a padding bit that is not zero.
        """
        group, indices = np.empty(len(payloads), np.int32), np.empty((len(payloads), self.tokens), np.int32)
        for some in self._pieces(len(payloads)):
            bits = np.unpackbits(payloads[some], axis=1)  # (B, 8 P)
            group[some] = _from_bits(bits[:, : self.group_bits])
            body = bits[:, self.group_bits : self.payload_bits]
            indices[some] = _from_bits(body.reshape(len(bits), self.tokens, self.code_bits))
            if bits[:, self.payload_bits :].any():
                raise Corrupt("packet has padding bits that are not zero; it is damaged: ask the sender again")
        self._check(group, indices, Corrupt)
        return group, indices

    def pack(self, group: Ints, indices: Ints, compact: bool = False) -> list[bytes]:
        """Group (B,) and indices (B, T) -> B standalone packets, without the model's tag if `compact`."""
        return [self.frame(row.tobytes(), COMPACT * compact) for row in self.pack_payload(group, indices)]

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
        framed = bytes([VERSION << 4 | flags]) + (b"" if flags & COMPACT else self.digest[:TAG]) + payload
        return framed + self._checksum(framed, tables)

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
        if packet[-TAIL:] == self._checksum(packet[:-TAIL], tables):
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

    def _checksum(self, framed: bytes, tables: bytes) -> bytes:
        """CRC-32 over the full digest, the tables and the packet without its last four bytes, little-endian."""
        return zlib.crc32(framed, zlib.crc32(tables, zlib.crc32(self.digest))).to_bytes(TAIL, "little")

    def _pieces(self, count: int) -> list[slice]:
        """Rows to work on at a time: their bits stay in the cache, and in memory that need not be fetched anew."""
        step = max(1, PIECE // (self.tokens * 32))
        return [slice(start, start + step) for start in range(0, count, step)]

    def _check(self, group: Ints, indices: Ints, error: type[PacketError]) -> None:
        """Refuse groups outside [0, M) and indices outside [0, K)."""
        for name, values, limit in (("group", group, self.groups), ("index", indices, self.codes)):
            wrong = (values < 0) | (values >= limit)
            if wrong.any():
                raise error(
                    f"{name} {int(values[wrong].flat[0])} is outside 0..{limit - 1}; not a packet of this model"
                )


def _to_bits(values: Ints, width: int) -> NDArray[np.uint8]:
    """Integers (...) -> their bits (..., width), most significant first."""
    kind = _container(width)
    bits = np.unpackbits(np.ascontiguousarray(values, kind).ravel().view(np.uint8))
    return bits.reshape(*values.shape, 8 * kind.itemsize)[..., 8 * kind.itemsize - width :]


def _from_bits(bits: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Bits (..., width), most significant first -> integers (...) int32."""
    width = bits.shape[-1]
    kind = _container(width)
    padded = np.zeros((*bits.shape[:-1], 8 * kind.itemsize), np.uint8)
    padded[..., 8 * kind.itemsize - width :] = bits
    return np.packbits(padded.ravel()).view(kind).astype(np.int32).reshape(bits.shape[:-1])


def _container(width: int) -> np.dtype[Any]:
    """The least unsigned big-endian integer of so many bits."""
    return np.dtype(np.uint8 if width <= 8 else ">u2" if width <= 16 else ">u4")


def to_file(packet: bytes) -> bytes:
    """The content of a .stcq file: the magic and one packet."""
    return MAGIC + packet


def from_file(content: bytes) -> bytes:
    """The packet in a .stcq file's content; a bare packet is accepted too."""
    return content[len(MAGIC) :] if content.startswith(MAGIC) else content
