"""`Selection`: pictures to a codebook group and token indices, by the policy and the cheapest way the bundle allows."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .graphs import Graphs
from .images import Pixels

if TYPE_CHECKING:  # most processes do not need it; importing it takes a hundredth of a cold start
    from .group_search import GroupSearch

SEARCHED = 1 << 26  # bytes of codebooks in float32 from which the runtime searches them itself, not the graph
COPIED = 1 << 30  # and up to which they may be converted and copied for that
Tokens = tuple[NDArray[np.int32], NDArray[np.int32]]


class Selection:
    """How one open codec chooses groups and codewords."""

    def __init__(self, graphs: Graphs, policy: str) -> None:
        """Policy "nn" is exact; "router" takes the router's group and reads its books only, with a memory all."""
        self.graphs, self.policy = graphs, policy

    def __call__(self, images: Pixels) -> Tokens:
        """Images (B, S, S, 3) uint8 -> group (B,) int32 and indices (B, T) int32."""
        graphs, nearest = self.graphs, self.policy == "nn"
        if nearest and graphs.options.precision == "f32" and self.fused:
            tokens = graphs.run("tokenizer", {"image": images})
            return tokens["group"], tokens["indices"]
        latents = graphs.run("encoder", {"image": images})["latents"]
        if nearest and self.searches:
            return self.search.select(latents)
        if nearest:  # the distance is float32 whatever the device would like
            tokens = graphs.run("quantizer", {"latents": latents})
            return tokens["group"], tokens["indices"]
        scores = graphs.run("router", {"latents": latents})["scores"]
        from .search import select_in

        group = scores.argmax(1).astype(np.int32)
        return group, select_in(latents, group, graphs.bundle.codebooks, graphs.bundle.manifest.codec.switching)

    @property
    def fused(self) -> bool:
        """Whether one graph, the tokenizer, may go from pictures to tokens."""
        return "tokenizer" in self.graphs.variant.graphs and not self.searches

    @cached_property
    def searches(self) -> bool:
        """Whether the runtime selects groups with its own search: the codebooks are large, and no GPU holds them.

        Not with books that all tokens share, nor with switches or a memory, which make groups cheap, nor where private
        copies would take gigabytes.
        """
        bundle = self.graphs.bundle
        codec = bundle.manifest.codec
        books = 4 * codec.groups * codec.tokens * codec.codes * codec.dim
        cheap = codec.groups == 1 or codec.switches > 1 or codec.memory > 0
        if books < SEARCHED or cheap or self.graphs.variant.backend == "tensorrt":
            return False
        from .group_search import LONG

        stored = bundle.stored_codebooks
        in_place = stored.dtype == np.float32 and codec.dim >= LONG
        return stored.shape[1] == codec.tokens and (in_place or books <= COPIED)

    @cached_property
    def search(self) -> GroupSearch:
        """The search over the bundle's codebooks, which takes a pass over them when it is first used."""
        from .group_search import GroupSearch

        return GroupSearch(self.graphs.bundle.codebooks)

    def close(self) -> None:
        """Free the search's copy of the codebooks."""
        self.__dict__.pop("search", None)
