"""What an open codec is, in numbers."""

from __future__ import annotations

from typing import Any, NamedTuple

from .manifest import Manifest


class CodecInfo(NamedTuple):
    """The open codec in numbers.

    Attributes:
        name: the bundle's name.
        T, K, M, d: tokens, codewords per book, groups, latent dimension.
        switches: runs of tokens whose books a group picks apart; 1 = all together.
        memory: tokens whose codes pick the next one's set of books; 0 = the group alone does.
        image_size: S, the decoded image is (S, S, 3).
        payload_bytes: bytes of a face; a standalone packet has 9 more, a compact one 5.
        digest: the model digest, hex.
        variant: the variant in use.
        policy: how groups are selected: "nn" or "router".
    """

    name: str
    T: int
    K: int
    M: int
    d: int
    switches: int
    memory: int
    image_size: int
    payload_bytes: int
    digest: str
    variant: str
    policy: str

    @classmethod
    def of(cls, manifest: Manifest, variant: str, policy: str) -> CodecInfo:
        """The numbers of a bundle, opened with a variant and a policy."""
        codec = manifest.codec
        return cls(
            name=manifest.name,
            T=codec.tokens,
            K=codec.codes,
            M=codec.groups,
            d=codec.dim,
            switches=codec.switches,
            memory=codec.memory,
            image_size=codec.image_size,
            payload_bytes=codec.packets.payload_bytes,
            digest=codec.digest.hex(),
            variant=variant,
            policy=policy,
        )

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return self._asdict()
