"""The part of a manifest that says what codec a bundle has, and its digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, NamedTuple

from .packet import MAX_PACKET, PacketFormat
from .packet import VERSION as PACKET_VERSION
from .switching import Switching, count_sets


class CodecSection(NamedTuple):
    """What the model digest covers: everything a decoder depends on.

    Attributes:
        tokens, codes, groups, dim: T, K, M, d.
        image_size: S in pixels.
        backbone: the architecture's name.
        switches, memory, memory_sets, memory_weights: how groups and codes pick sets of books (runtime/switching.py).
        codebooks_sha256: of the (V, T, K, d) codebooks' float32 little-endian bytes.
        decoder_sha256: of the decoder's fp32 weights.
        colour: always "RGB".
        packet_version: the packet format.
    """

    tokens: int
    codes: int
    groups: int
    dim: int
    image_size: int
    backbone: str
    codebooks_sha256: str
    decoder_sha256: str
    colour: str = "RGB"
    packet_version: int = PACKET_VERSION
    switches: int = 1
    memory: int = 0
    memory_sets: int = 0
    memory_weights: tuple[int, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The JSON object, with the paper's symbols as names; switches and what a memory has where there are some."""
        several: dict[str, Any] = {"switches": self.switches} if self.switches > 1 else {}
        several |= {name: getattr(self, name) for name in ("memory", "memory_sets") if getattr(self, name)}
        several |= {"memory_weights": list(self.memory_weights)} if self.memory_weights else {}
        return {
            "T": self.tokens,
            "K": self.codes,
            "M": self.groups,
            "d": self.dim,
            "image_size": self.image_size,
            "colour": self.colour,
            "backbone": self.backbone,
            "packet_version": self.packet_version,
            "codebooks_sha256": self.codebooks_sha256,
            "decoder_sha256": self.decoder_sha256,
        } | several

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CodecSection:
        """Parse the JSON object; KeyError, TypeError or ValueError when it is not one."""
        numbers = {name: data[key] for name, key in (("tokens", "T"), ("codes", "K"), ("groups", "M"), ("dim", "d"))}
        numbers |= {name: data[name] for name in ("image_size", "packet_version")}
        numbers |= {name: data[name] for name in ("switches", "memory", "memory_sets") if name in data}
        weights = {"memory_weights": tuple(data["memory_weights"])} if "memory_weights" in data else {}
        for name, values in ({name: (value,) for name, value in numbers.items()} | weights).items():
            if not values or any(type(value) is not int or not 0 < value <= 1 << 20 for value in values):
                raise ValueError(f"{name} is {values}")
        texts = {name: str(data[name]) for name in ("backbone", "codebooks_sha256", "decoder_sha256", "colour")}
        if len(data) != len(numbers) + len(weights) + len(texts):
            raise ValueError(f"unknown fields in codec section {sorted(data)}")
        fields: dict[str, Any] = numbers | weights | texts
        section = cls(**fields)
        count_sets(*section.switching)
        if section.packets.packet_bytes > MAX_PACKET:
            raise ValueError(f"packets would have {section.packets.packet_bytes} bytes, the limit is {MAX_PACKET}")
        return section

    @property
    def switching(self) -> Switching:
        """How groups pick their books."""
        ways = self.switches, self.memory, self.codes, self.memory_sets, self.memory_weights
        return Switching(self.groups, self.tokens, *ways)

    @property
    def digest(self) -> bytes:
        """The model digest: SHA-256 of this section as JSON with sorted keys and no spaces."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).digest()

    @property
    def packets(self) -> PacketFormat:
        """The layout of this model's packets."""
        return PacketFormat(self.tokens, self.codes, self.groups, self.digest)
