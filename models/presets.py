"""The paper's operating points and what each costs; needs no torch.

Wang et al. 2025, arXiv 2510.22943: payload T * ceil(log2 K) + ceil(log2 M) bits, codebooks of M * T * K * d numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from .config import CodecConfig

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
PACKET_OVERHEAD = 9  # version, model tag, CRC-32: docs/bitstream.md


@dataclass(frozen=True)
class Cost:
    """What a codec's numbers cost.

    Attributes:
        bits, payload_bytes, packet_bytes: of one face; a packet is what `Codec.encode` returns.
        bpp: payload bits per pixel of the codec's image.
        codebook_bytes: all books by precision; int8 has a float32 scale for each book besides.
        nn_bytes: codebook numbers that exact selection reads for one image: all of them, once, in fp32.
        router_bytes: those that selection by the router reads: one group's, with a memory all.
    """

    bits: int
    payload_bytes: int
    packet_bytes: int
    bpp: float
    codebook_bytes: dict[str, int]
    nn_bytes: int
    router_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return dict(vars(self))


def cost(config: CodecConfig) -> Cost:
    """The cost of a codec; shared books are stored once but meet every token's query."""
    books = config.sets * config.books_per_group
    numbers = books * config.codes * config.dim
    stored = {name: numbers * size + (4 * books if name == "int8" else 0) for name, size in BYTES.items()}
    payload = -(-config.payload_bits // 8)
    read = numbers * BYTES["fp32"]
    return Cost(
        bits=config.payload_bits,
        payload_bytes=payload,
        packet_bytes=payload + PACKET_OVERHEAD,
        bpp=config.payload_bits / config.image_size**2,
        codebook_bytes=stored,
        nn_bytes=read,
        router_bytes=read if config.memory else read // config.sets,
    )


def preset(backbone: str, tokens: int, dim: int, groups: int, codes: int, **options: Any) -> CodecConfig:
    """A token-specific codec on a published tokenizer at 256 x 256."""
    books: Literal["specific"] = "specific"
    return CodecConfig(tokens, codes, groups, dim, books, 256, backbone, options)


LARGE = {"width": 1024, "layers": 24, "heads": 16}
LARGE |= {f"decoder_{name}": value for name, value in LARGE.items()}

PRESETS: dict[str, CodecConfig] = {
    "maskgit-vqgan-m1-k4096": preset("maskgit_vqgan", 256, 256, 1, 4096),
    "maskgit-vqgan-m16-k1024": preset("maskgit_vqgan", 256, 256, 16, 1024),
    "titok-s-128-m1-k4096": preset("titok", 128, 12, 1, 4096),
    "titok-s-128-m256-k256": preset("titok", 128, 12, 256, 256),
    "titok-l-32-m1-k4096": preset("titok", 32, 12, 1, 4096, **LARGE),
    "titok-l-32-m256-k256": preset("titok", 32, 12, 256, 256, **LARGE),
}
