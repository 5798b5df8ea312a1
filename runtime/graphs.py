"""`Graphs`: the open graphs of one variant of a bundle, and `faces_at_once`, how many faces they take in one run."""

from __future__ import annotations

import os
from typing import Any

from numpy.typing import NDArray

from .backends import open_backend
from .backends.base import Session, SessionOptions
from .bundle import Bundle
from .manifest import Variant

CHUNK = 32  # most faces in one run of a graph
PIXELS = CHUNK * 128 * 128  # and most pixels: a decoder for 512 x 512 would hold gigabytes for 32 of them


class Graphs:
    """A variant's graphs, opened when first needed. Not for use from several threads at once."""

    def __init__(self, bundle: Bundle, variant: Variant, threads: int | None, precision: str) -> None:
        """See `Codec.load`.

        Raises:
            BackendMissing: the variant's library is not installed.
        """
        self.bundle, self.variant = bundle, variant
        self.options = SessionOptions(available_cpus() if threads is None else threads, precision)
        self._backend = open_backend(variant.backend)
        self._sessions: dict[str, Session] = {}

    def session(self, graph: str) -> Session:
        """The open session of a graph; raises as `Codec.session` does."""
        if graph not in self._sessions:
            path = self.bundle.graph(self.variant, graph)
            options = self.options._replace(precision="f32") if graph == "quantizer" else self.options
            self._sessions[graph] = self._backend.open(path, options)
        return self._sessions[graph]

    def run(self, graph: str, feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run a graph on any number of rows; raises as `Codec.run` does."""
        return self.session(graph).run_rows(feeds)

    def close(self) -> None:
        """Free all graphs; they are opened anew when needed."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()


def faces_at_once(image_size: int) -> int:
    """How many faces of (image_size, image_size) pixels go through a graph in one run."""
    return max(1, min(CHUNK, PIXELS // image_size**2))


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
