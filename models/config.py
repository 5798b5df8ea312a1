"""The codec's shape: one frozen record, saved as config.json beside the weights."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import CheckpointError
from ..runtime.packet import MAX_PACKET, PacketFormat
from ..runtime.switching import Switching, count_sets

BooksKind = Literal["shared", "specific"]


@dataclass(frozen=True)
class CodecConfig:
    """Everything that fixes a codec's graphs and packets, but no weights.

    Attributes:
        tokens: T, latent tokens per image.
        codes: K, codewords in each book.
        groups: M, codebook groups an image chooses from.
        dim: d, numbers in a latent token.
        books: "specific", one book per (group, token), or "shared", one book per group.
        switches: S; a group picks a set of books for each of S equal runs of tokens (runtime/switching.py). Default 1,
            the paper's: one for all tokens.
        memory: D; the codes of the last D tokens pick a token's set of books, and a group is where that begins
            (runtime/trellis.py). Default 0: the group alone picks.
        memory_sets: sets of books that a memory picks among. Default 0: as many as classes, the D-th root of M.
        memory_weights: of the D classes in the sum that picks, the newest first. Default none: all 1.
        image_size: S, height and width of the square RGB image in pixels.
        backbone: a name from `stcq.models.codec.BACKBONES`.
        backbone_options: keyword options of that backbone.
    """

    tokens: int = 64
    codes: int = 256
    groups: int = 1
    dim: int = 8
    books: BooksKind = "specific"
    image_size: int = 128
    backbone: str = "edge"
    backbone_options: dict[str, Any] = field(default_factory=dict)
    switches: int = 1
    memory: int = 0
    memory_sets: int = 0
    memory_weights: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tokens", "codes", "groups", "dim", "image_size", "switches", "memory", "memory_sets"):
            value, least = getattr(self, name), int(not name.startswith("memory"))
            if type(value) is not int or value < least:
                raise CheckpointError(f"config: {name} is {value!r}; it must be a whole number of at least {least}")
        weights = self.memory_weights
        if not isinstance(weights, (list, tuple)) or any(type(weight) is not int for weight in weights):
            raise CheckpointError(f"config: memory_weights is {weights!r}; it must be a list of whole numbers")
        object.__setattr__(self, "memory_weights", tuple(weights))  # JSON and TOML have lists
        if not isinstance(self.books, str) or self.books not in ("shared", "specific"):
            raise CheckpointError(f"config: books is {self.books!r}; use 'shared' or 'specific'")
        if (self.switches > 1 or self.memory) and self.books == "shared":
            raise CheckpointError(
                "config: books that all tokens share have one switch and no memory; use books 'specific'"
            )
        if not isinstance(self.backbone, str):
            raise CheckpointError(f"config: backbone is {self.backbone!r}; it must be a name such as 'edge'")
        if not isinstance(self.backbone_options, dict) or not all(type(name) is str for name in self.backbone_options):
            raise CheckpointError(f"config: backbone_options is {self.backbone_options!r}; it must be a table by name")
        size = PacketFormat(self.tokens, self.codes, self.groups, b"").packet_bytes
        if size > MAX_PACKET:
            raise CheckpointError(f"config: packets would have {size} bytes, at most {MAX_PACKET}; take fewer tokens")
        try:
            count_sets(*self.switching)
        except ValueError as error:
            raise CheckpointError(f"config: {error}") from None

    @property
    def switching(self) -> Switching:
        """How groups pick their books."""
        ways = self.switches, self.memory, self.codes, self.memory_sets, self.memory_weights
        return Switching(self.groups, self.tokens, *ways)

    @property
    def sets(self) -> int:
        """V, sets of books: M, with S switches the S-th root of it, with a memory `memory_sets` or the D-th root."""
        return self.switching.sets

    def apart(self, groups: int) -> CodecConfig:
        """This codec with so many groups, each with a set of books of its own: no switches and no memory."""
        return dataclasses.replace(self, groups=groups, switches=1, memory=0, memory_sets=0, memory_weights=())

    def of_kind(self, books: BooksKind) -> CodecConfig:
        """This codec with shared or specific books; shared ones know no switches or memory: as many as sets."""
        return dataclasses.replace(self.apart(self.sets) if books == "shared" else self, books=books)

    @property
    def books_per_group(self) -> int:
        """1 when the books are shared by all tokens, else T."""
        return 1 if self.books == "shared" else self.tokens

    @property
    def payload_bits(self) -> int:
        """Bits of one face: ceil(log2 M) + T * ceil(log2 K) (paper, section on bit rate)."""
        return (self.groups - 1).bit_length() + self.tokens * (self.codes - 1).bit_length()

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy; without switches and what a memory has where there are none: older releases read it."""
        document, plain = dataclasses.asdict(self), self.apart(self.groups)
        for name in ("switches", "memory", "memory_sets", "memory_weights"):
            if document[name] == getattr(plain, name):
                del document[name]
        return document

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CodecConfig:
        """Build from a JSON object; unknown names raise `CheckpointError`."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown:
            raise CheckpointError(f"config has unknown fields {unknown}; it may come from a newer stcq: upgrade stcq")
        try:
            return cls(**data)
        except TypeError as error:
            raise CheckpointError(f"config is not usable: {error}") from error


def same_kind(value: Any, default: Any) -> bool:
    """Whether a value can stand for a default: a whole number also for a fraction, but no truth value for a number."""
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
