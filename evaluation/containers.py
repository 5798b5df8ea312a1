"""What headers cost: bytes of compressed data in a classical codec's file, without container and tables."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def codestream_bytes(codec: str, content: bytes) -> int:
    """Bytes of compressed data in a file.

    JPEG: entropy-coded segments between SOS and EOI. WebP: the VP8 chunk. AVIF: the mdat box. JPEG 2000: the
    packets after SOD. JPEG XL: the whole file, which is a bare codestream already.

    Args:
        codec: "jpeg", "webp", "avif", "jpeg2000" or "jxl".
        content: a whole file.
    """
    return {"jpeg": _jpeg, "webp": _webp, "avif": _avif, "jpeg2000": _jpeg2000, "jxl": len}[codec](content)


def _jpeg(content: bytes) -> int:
    total, position = 0, 2
    while position + 4 <= len(content):
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4])
        position += 2 + length
        if marker != 0xDA:
            continue
        start = position
        while not (content[position] == 0xFF and content[position + 1] not in (0, *range(0xD0, 0xD8))):
            position += 1
        total += position - start
        if content[position + 1] == 0xD9:
            break
    return total


def _webp(content: bytes) -> int:
    chunks = {}
    position = 12
    while position + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, position)
        chunks[name] = length
        position += 8 + length + length % 2
    return sum(length for name, length in chunks.items() if name in (b"VP8 ", b"VP8L", b"ALPH"))


def _avif(content: bytes) -> int:
    return sum(length for name, length in _boxes(content) if name == b"mdat")


def _boxes(content: bytes) -> Iterator[tuple[bytes, int]]:
    """(type, bytes of content) of the top-level ISO boxes."""
    position = 0
    while position + 8 <= len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        length = length or len(content) - position
        yield name, length - 8
        position += length


def _jpeg2000(content: bytes) -> int:
    return len(content) - content.index(b"\xff\x93") - 4  # SOD before, EOC after
