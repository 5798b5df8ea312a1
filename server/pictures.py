"""Stored tokens to pictures: one codec per model, the last pictures kept."""

from __future__ import annotations

import io
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import Corrupt, UnsupportedVersion, WrongModel
from ..runtime.bundle import EMBEDDED
from ..runtime.codec import Codec
from ..runtime.packet import PacketFormat, tag_of
from .metrics import Metrics

FORMATS = {"png": ("PNG", "image/png"), "webp": ("WEBP", "image/webp"), "jpg": ("JPEG", "image/jpeg")}
JPEG_QUALITY = 85


class Pictures:
    """The decoders of a server; safe to use from several threads."""

    def __init__(self, bundles: Sequence[Path], metrics: Metrics, threads: int | None = None) -> None:
        """Open bundles.

        Args:
            bundles: folders or zips; none = the embedded one.
            metrics: counted into.
            threads: CPU threads of each decoder.

        Raises:
            BundleError: one cannot be opened.
        """
        self._metrics = metrics
        self._lock = threading.Lock()
        self._codecs: dict[bytes, Codec] = {}
        for path in bundles or [EMBEDDED]:
            codec = Codec.load(path, threads=threads)
            self._codecs[bytes.fromhex(codec.info.digest)] = codec
        self._cached = lru_cache(maxsize=1024)(self._render)

    @property
    def layouts(self) -> dict[bytes, PacketFormat]:
        """The models that can be decoded, by digest."""
        return {digest: codec.bundle.manifest.codec.packets for digest, codec in self._codecs.items()}

    def picture(self, digest: bytes, payload: bytes, suffix: str) -> bytes:
        """A face as a PNG, WebP or JPEG file.

        Raises:
            WrongModel: its bundle is not open here.
        """
        return self._cached(digest, payload, suffix)

    def forget(self) -> None:
        """Drop kept pictures: after faces were erased."""
        self._cached.cache_clear()

    def facts(self, digest: bytes, payload: bytes) -> dict[str, Any]:
        """What is inside a face's packet."""
        layout = self._codec(digest).bundle.manifest.codec.packets
        group, indices = layout.unpack_payload(np.frombuffer(payload, np.uint8)[None])
        [packet] = layout.pack(group, indices)
        return {
            "packet": packet.hex(),
            "packet_bytes": len(packet),
            "payload_bytes": len(payload),
            "version": packet[0] >> 4,
            "model": self._codec(digest).info.name,
            "digest": digest.hex(),
            "group": int(group[0]),
            "indices": indices[0].tolist(),
            "jpeg_bytes": len(self.picture(digest, payload, "jpg")),
        }

    def decode_packet(self, packet: bytes, suffix: str) -> bytes:
        """A standalone packet as a picture.

        Raises:
            PacketError: not a packet of an open bundle.
        """
        tag, layouts = tag_of(packet), self.layouts
        models = [digest for digest in layouts if tag in (None, digest[:4])]
        unknown: UnsupportedVersion | None = None
        for digest in models:  # without a tag the checksum says whose packet it is
            try:
                payload = layouts[digest].pack_payload(*self._codecs[digest].unpack([packet]))[0].tobytes()
            except Corrupt:
                if len(models) == 1:
                    raise
            except UnsupportedVersion as error:  # another model may have the tables that coded it
                unknown = error
            else:
                return self.picture(digest, payload, suffix)
        if unknown is not None:
            raise unknown
        if models:
            raise Corrupt("packet fits no open model; it was damaged, or start the server with its --bundle")
        raise WrongModel(f"packet was written by model {packet[1:5].hex()}; start the server with its --bundle")

    def close(self) -> None:
        """Free the decoders."""
        for codec in self._codecs.values():
            codec.close()

    def _codec(self, digest: bytes) -> Codec:
        codec = self._codecs.get(digest)
        if codec is None:
            raise WrongModel(f"the face was written by model {digest[:4].hex()}; start the server with its --bundle")
        return codec

    def _render(self, digest: bytes, payload: bytes, suffix: str) -> bytes:
        codec = self._codec(digest)
        layout = codec.bundle.manifest.codec.packets
        [packet] = layout.pack(*layout.unpack_payload(np.frombuffer(payload, np.uint8)[None]))
        with self._lock:
            image = Image.fromarray(codec.decode(packet))
        self._metrics.pictures.inc()
        buffer = io.BytesIO()
        options = {"jpg": {"quality": JPEG_QUALITY}, "webp": {"quality": 90}}.get(suffix, {})
        image.save(buffer, FORMATS[suffix][0], **options)
        return buffer.getvalue()
