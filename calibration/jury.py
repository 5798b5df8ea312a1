"""What encoders make of held-out pictures: latents, tokens, pixels and identity, for the gate to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.faces import Faces
from ..evaluation.quality import psnrs
from ..evaluation.recognizer import Recognizer
from ..evaluation.verification import verify_pairs
from ..runtime.codec import Codec
from ..runtime.graphs import faces_at_once
from .gate import Outcome, Scores, compare

Encode = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Jury:
    """Scores encoders on held-out pictures through the sibling's quantizer and decoder.

    Args:
        codec: the open float sibling.
        faces: held-out pictures and their verification pairs.
        recognizer: None = identity is not judged.
        walk: with a memory, the sibling's sets of books (N, T), where the codec itself is the candidate.
    """

    def __init__(
        self, codec: Codec, faces: Faces, recognizer: Recognizer | None, walk: NDArray[np.int64] | None = None
    ) -> None:
        self.codec, self.faces, self.recognizer, self.walk = codec, faces, recognizer, walk
        self._plain: NDArray[np.float64] | None = None
        self._mirrored: NDArray[np.float64] | None = None
        if recognizer is not None:
            self._plain, self._mirrored = self._embed(recognizer, faces.images)
        self.before = self.outcome(lambda images: codec.run("encoder", {"image": images})["latents"])
        self.walk = self.before.sets

    def outcome(self, encode: Encode) -> Outcome:
        """What an encoder, images (B, S, S, 3) uint8 -> latents (B, T, d), makes of the held-out pictures."""
        images = self.faces.images
        step = faces_at_once(images.shape[1])
        parts = []
        for start in range(0, len(images), step):
            rows = images[start : start + step]
            latents = encode(rows)
            tokens = self.codec.run("quantizer", {"latents": latents})
            decoded = self.codec.run("decoder", tokens)["image"]
            embedded = self._embed(self.recognizer, decoded) if self.recognizer else (np.zeros(0), np.zeros(0))
            parts.append((latents, *self._compared(latents, tokens, start), psnrs(rows, decoded), *embedded))
        latents, sets, indices, psnr, plain, mirrored = (np.concatenate(column) for column in zip(*parts, strict=True))
        ids = verification = None
        if self._plain is not None and self._mirrored is not None:
            ids = (self._plain * plain).sum(1)  # (N,)
            if self.faces.pairs:
                verification = verify_pairs(self._mirrored, mirrored, self.faces.pairs)
        walked = self.codec.bundle.manifest.codec.switching.memory > 0
        return Outcome(latents, sets, indices, psnr, ids, verification, walked, self.faces.people)

    def _compared(self, latents: NDArray[np.float32], tokens: dict[str, NDArray[Any]], start: int) -> Sequence[Any]:
        """Sets and indices (B, T) as in an `Outcome`, of faces from number `start` on."""
        switching, books = self.codec.bundle.manifest.codec.switching, self.codec.bundle.codebooks
        sets, indices = switching.expand(tokens["group"], tokens["indices"]), tokens["indices"]
        if switching.memory:
            sets = sets if self.walk is None else self.walk[start : start + len(sets)]
            open_to = books[sets, np.arange(sets.shape[1])]  # (B, T, K, d)
            indices = np.square(latents[:, :, None] - open_to).sum(3).argmin(2)
        return sets, indices

    def score(self, encode: Encode) -> Scores:
        """A candidate's encoder against the sibling's."""
        return compare(self.before, self.outcome(encode))

    @staticmethod
    def _embed(recognizer: Recognizer, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Embeddings (N, E) of pictures, and of pictures with their mirror images added."""
        rows = [recognizer.embed_both(image) for image in images]
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])


def golden_faces(golden: dict[str, NDArray[Any]]) -> NDArray[np.uint8]:
    """The photographs of a bundle's golden set, (N, S, S, 3); the last two of it are a gradient and noise."""
    return golden["images"][:-2]
