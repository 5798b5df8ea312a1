"""`Codec`: faces to packets and back, with one bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError
from .backends.base import Session
from .bundle import EMBEDDED, Bundle
from .choose import choose
from .codec_info import CodecInfo
from .graphs import Graphs, faces_at_once
from .images import Pixels, prepare
from .manifest import POLICIES, TABLES
from .packet import is_coded
from .selection import Selection

if TYPE_CHECKING:  # most processes do not need it; importing it takes a hundredth of a cold start
    from .entropy import EntropyFormat


PRECISIONS = ("f32", "auto")  # that a device may be asked to compute in


class Codec:
    """An open bundle with one variant's graphs; graphs are opened when first needed.

    Use it in `with`, or call `close`. Not for use from several threads at once: open one per thread.
    """

    def __init__(
        self,
        bundle: Bundle,
        variant: str = "auto",
        policy: str | None = None,
        threads: int | None = None,
        precision: str = "f32",
        entropy: bool = False,
        compact: bool = False,
    ) -> None:
        """See `load`."""
        self.bundle = bundle
        self.choice = choose(bundle, variant)
        self.variant = self.choice.variant
        self.policy = policy or bundle.manifest.policy
        if self.policy not in POLICIES:
            raise BundleError(f"policy {self.policy!r} is unknown; use one of {', '.join(POLICIES)}")
        if precision not in PRECISIONS:
            raise BundleError(f"precision {precision!r} is unknown; use one of {', '.join(PRECISIONS)}")
        self._graphs = Graphs(bundle, self.variant, threads, precision)
        self.selection = Selection(self._graphs, self.policy)
        self._packets = bundle.manifest.codec.packets
        self._entropy, self._compact = entropy, compact
        if entropy and self._coder is None:
            raise BundleError(f"{bundle.source} has no entropy tables; add them with: stcq calibrate --entropy-tables")

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        variant: str = "auto",
        policy: str | None = None,
        threads: int | None = None,
        precision: str = "f32",
        entropy: bool = False,
        compact: bool = False,
    ) -> Codec:
        """Open a bundle.

        Args:
            path: a bundle folder or a .zip of one; None = the bundle inside the package.
            variant: such as "onnx-fp32"; "auto" takes the fastest on this machine of a calibrated bundle (the first
                opening on another machine than the calibration's measures for two seconds), else the bundle's first
                whose library is installed. `codec.choice` says which and why.
            policy: "nn" (exact) or "router" (reads one group's books only, with a memory all); None = the bundle's.
            threads: CPU threads of the graphs; None = as many as this process may use.
            precision: "f32", or "auto" to let the device compute as it likes (bfloat16, say): faster on some, and
                then other machines may choose other tokens; every packet still decodes everywhere.
            entropy: write entropy-coded packets, which bundles with the same tables read; the bundle must have some.
            compact: write packets without the model's tag, 4 bytes shorter: for receivers that know the model. They
                read both kinds; the checksum still refuses another model's packet, but as damaged (`Corrupt`).

        Raises:
            BundleError: the bundle is missing or damaged, or has no such variant.
            BackendMissing: the variant's library is not installed.
        """
        bundle = Bundle(EMBEDDED if path is None else Path(path))
        return cls(bundle, variant, policy, threads, precision, entropy, compact)

    @property
    def info(self) -> CodecInfo:
        """The codec in numbers."""
        return CodecInfo.of(self.bundle.manifest, self.variant.name, self.policy)

    @property
    def precision(self) -> str:
        """What the encoder is computed in on this device: "f32", or what it chose when `precision` was "auto"."""
        return self.session("encoder").precision

    def encode(self, image: Any) -> bytes:
        """A picture of any size -> one standalone packet of info.payload_bytes + 9 bytes.

        It has 4 bytes fewer if the codec was loaded with `compact`, and fewer with `entropy`.

        Args:
            image: uint8 array (H, W, 3) RGB, (H, W, 4) RGBA or (H, W), uint16 of these shapes, or a PIL image.

        Raises:
            ImageError: another type or shape.
        """
        return self.encode_batch([image])[0]

    def encode_batch(self, images: Sequence[Any]) -> list[bytes]:
        """Pictures as for `encode` -> one packet each, the same as one by one."""
        layout = self._coder if self._entropy and self._coder else self._packets
        return layout.pack(*self.tokens_batch(images), compact=self._compact)

    def decode(self, packet: bytes) -> Pixels:
        """One standalone packet -> the decoded face, uint8 RGB (S, S, 3).

        Raises:
            WrongModel: the packet was written by another model.
            Corrupt, UnsupportedVersion: it is not exactly what `encode` writes.
        """
        image: Pixels = self.decode_batch([packet])[0]
        return image

    def decode_batch(self, packets: Sequence[bytes]) -> Pixels:
        """Packets -> uint8 (B, S, S, 3); all packets are checked before any is decoded."""
        group, indices = self.unpack(packets)
        size = self.bundle.manifest.codec.image_size
        step = faces_at_once(size)
        if 0 < len(group) <= step:
            return self.run("decoder", {"group": group, "indices": indices})["image"]
        images = np.empty((len(group), size, size, 3), np.uint8)
        for start in range(0, len(group), step):
            part = slice(start, start + step)
            images[part] = self.run("decoder", {"group": group[part], "indices": indices[part]})["image"]
        return images

    def unpack(self, packets: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Packets, entropy-coded or not -> group (B,) and indices (B, T), int32; errors as of `decode`."""
        plain = [bytes(packet) for packet in packets]
        layout = self._coder if self._coder and any(map(is_coded, plain)) else self._packets
        return layout.unpack(plain)

    def tokens(self, image: Any) -> tuple[int, NDArray[np.int32]]:
        """A picture -> its codebook group and the T token indices (T,) int32."""
        group, indices = self.tokens_batch([image])
        return int(group[0]), indices[0]

    def tokens_batch(self, images: Sequence[Any]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Pictures as for `encode` -> group (B,) int32 and indices (B, T) int32."""
        step = faces_at_once(self.bundle.manifest.codec.image_size)
        if 0 < len(images) <= step:
            return self.selection(self._prepare(images))
        parts = [(np.zeros(0, np.int32), np.zeros((0, self._packets.tokens), np.int32))]
        for start in range(0, len(images), step):
            parts.append(self.selection(self._prepare(images[start : start + step])))
        group, indices = (np.concatenate(column) for column in zip(*parts, strict=True))
        return group, indices

    def latents(self, image: Any) -> NDArray[np.float32]:
        """A picture -> the encoder's output before quantisation, (T, d) float32."""
        result: NDArray[np.float32] = self.run("encoder", {"image": self._prepare([image])})["latents"][0]
        return result

    def run(self, graph: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run one of the variant's graphs on any number of rows (docs/bundle.md lists graphs and tensors).

        Raises:
            BundleError: the variant has no such graph, or a file is damaged.
            BackendError: an input has the wrong name, dtype or shape.
        """
        return self._graphs.run(graph, feeds)

    def close(self) -> None:
        """Free all graphs; the codec can be used again and opens them anew, unless it came from a zip."""
        self.close_graphs()
        self.bundle.close()

    def close_graphs(self) -> None:
        """Free all graphs and leave the bundle open."""
        self._graphs.close()
        self.selection.close()

    def __enter__(self) -> Codec:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def _coder(self) -> EntropyFormat | None:
        """The bundle's entropy tables, if it has some."""
        if TABLES not in self.bundle.manifest.files:
            return None
        from .entropy import EntropyFormat

        return EntropyFormat.load(self.bundle.file(TABLES), self._packets, self.bundle.manifest.codec.switching)

    def _prepare(self, images: Sequence[Any]) -> Pixels:
        """Pictures as the graphs' input, uint8 (B, S, S, 3)."""
        size = self.bundle.manifest.codec.image_size
        pictures = [prepare(image, size) for image in images]
        return pictures[0][None] if len(pictures) == 1 else np.stack(pictures)

    def session(self, graph: str) -> Session:
        """The open session of one of the variant's graphs.

        Raises:
            BundleError: the variant has no such graph, or a file is damaged.
            BackendError: the backend refuses it.
        """
        return self._graphs.session(graph)
