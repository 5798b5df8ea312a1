"""What is timed: the steps of encoding and decoding, in the order in which a codec takes them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.codec import Codec
from ..runtime.images import open_image, prepare
from ..runtime.search import select_in

KINDS = ("encode", "decode")


@dataclass(frozen=True)
class Stage:
    """One step.

    Attributes:
        name: as in the report.
        kind: "encode" or "decode".
        part_of: the stage that contains it and is timed as a whole too; None = the codec takes this step itself.
        run: does it once for the whole batch.
    """

    name: str
    kind: str
    part_of: str | None
    run: Callable[[], Any]

    def to_dict(self) -> dict[str, str | None]:
        """The JSON object."""
        return {"stage": self.name, "kind": self.kind, "part_of": self.part_of}


def stages(codec: Codec, pictures: Sequence[bytes], kinds: Sequence[str] = KINDS) -> list[Stage]:
    """The stages of an open codec on a batch of picture files.

    Args:
        codec: open; its graphs are opened by the first run of a stage.
        pictures: B files' contents.
        kinds: which of "encode" and "decode".

    Returns:
        "encode": read, resize, the graphs by policy, pack, and `encode`, the whole call with decoded pictures;
        "decode": unpack, decoder, and `decode`. Parts of a fused graph follow it and are timed on their own graphs.
    """
    found = []
    if "encode" in kinds:
        found += encode_stages(codec, pictures)
    if "decode" in kinds:
        found += decode_stages(codec, codec.encode_batch([open_image(picture) for picture in pictures]))
    return found


def encode_stages(codec: Codec, pictures: Sequence[bytes]) -> list[Stage]:
    """From files to packets."""
    manifest = codec.bundle.manifest
    size, packets = manifest.codec.image_size, manifest.codec.packets
    opened = [open_image(picture) for picture in pictures]
    prepared = np.stack([prepare(image, size) for image in opened])  # (B, S, S, 3)
    latents = codec.run("encoder", {"image": prepared})["latents"]
    group, indices = codec.tokens_batch(list(prepared))

    def quantise() -> Any:
        return select_in(latents, group, codec.bundle.codebooks, manifest.codec.switching)

    def graph(name: str, **feeds: Any) -> Callable[[], Any]:
        return lambda: codec.run(name, feeds)

    def choose() -> Any:
        return codec.selection.search.select(latents)

    nearest, searches = codec.policy == "nn", codec.policy == "nn" and codec.selection.searches
    fused = nearest and codec.selection.fused
    whole = "tokenizer" if fused else None
    chooser = "quantizer" if nearest else "router"
    steps: list[tuple[str, str | None, Callable[[], Any]]] = [
        ("read", None, lambda: [open_image(io.BytesIO(picture)) for picture in pictures]),
        ("resize", None, lambda: np.stack([prepare(image, size) for image in opened])),
        ("encoder", whole, graph("encoder", image=prepared)),
        ("group selection", whole, choose if searches else graph(chooser, latents=latents)),
        ("quantise", "group selection" if nearest else None, quantise),
        ("pack", None, lambda: packets.pack(group, indices)),
        ("encode", None, lambda: codec.encode_batch(opened)),
    ]
    if fused:
        steps.insert(2, ("tokenizer", None, graph("tokenizer", image=prepared)))
    return [Stage(name, "encode", part_of, run) for name, part_of, run in steps]


def decode_stages(codec: Codec, packets: list[bytes]) -> list[Stage]:
    """From packets to pictures."""
    layout, books = codec.bundle.manifest.codec.packets, codec.bundle.codebooks
    group, indices = layout.unpack(packets)
    tokens, switching = np.arange(indices.shape[1]), codec.bundle.manifest.codec.switching
    steps: list[tuple[str, str | None, Callable[[], Any]]] = [
        ("unpack", None, lambda: layout.unpack(packets)),
        ("decoder", None, lambda: codec.run("decoder", {"group": group, "indices": indices})),
        ("lookup", "decoder", lambda: books[switching.expand(group, indices), tokens, indices]),
        ("decode", None, lambda: codec.decode_batch(packets)),
    ]
    return [Stage(name, "decode", part_of, run) for name, part_of, run in steps]
