"""The surface of every backend: open a graph, run named arrays through it, close it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError

Arrays = dict[str, NDArray[Any]]


class TensorSpec(NamedTuple):
    """Type of one input or output; None in the shape is a free size (the batch)."""

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]

    def accepts(self, array: NDArray[Any]) -> bool:
        """Whether an array has this dtype and shape."""
        if array.dtype != self.dtype or array.ndim != len(self.shape):
            return False
        return all(want in (None, have) for want, have in zip(self.shape, array.shape, strict=True))


class SessionOptions(NamedTuple):
    """How to run a graph.

    Attributes:
        threads: CPU threads inside an operator; 0 = what the backend thinks best.
        precision: "f32", so that every backend chooses the same tokens, or "auto": what the device does by itself,
            such as bfloat16. Backends whose precision lies in the graph ignore it.
        cache: folder for engines that are built on this machine; None = the user's cache folder.
    """

    threads: int = 0
    precision: str = "f32"
    cache: Path | None = None


class Session(ABC):
    """One open graph; use it in `with` or call close().

    Attributes:
        inputs, outputs: what goes in and comes out, in the graph's order.
        precision: what it is computed in, such as "f32" or "bf16".
        most_rows: largest batch of a graph with a free batch; None = any.
        facts: what a backend that builds engines says about this one.
    """

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    precision: str = "f32"
    most_rows: int | None = None
    facts: Mapping[str, Any] = MappingProxyType({})

    @property
    def batch(self) -> int | None:
        """The graph's fixed batch; None when it is free."""
        return next(iter(self.inputs.values())).shape[0]

    def run_rows(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run any number of rows, also through a graph with a fixed batch: in pieces, the last one filled up.

        Args:
            feeds: every input by name, at least one row.

        Raises:
            BackendError: as `run`.
        """
        batch = self.batch
        rows = len(next(iter(feeds.values())))
        step = batch or self.most_rows or rows
        if rows == step or (batch is None and rows < step):
            return self.run(feeds)
        pieces = []
        for start in range(0, rows, step):
            part = {name: array[start : start + step] for name, array in feeds.items()}
            have = len(next(iter(part.values())))
            if batch is not None and have < batch:
                part = {name: np.concatenate([a, np.repeat(a[-1:], batch - have, 0)]) for name, a in part.items()}
            pieces.append({name: array[:have] for name, array in self.run(part).items()})
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in self.outputs}

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """Run the graph.

        Args:
            feeds: every input by name, exact dtype and shape.

        Returns:
            Every output by name.

        Raises:
            BackendError: a name, dtype or shape is wrong, the session is closed, or the library failed.
        """
        if set(feeds) != set(self.inputs):
            raise BackendError(f"graph inputs are {sorted(self.inputs)}, got {sorted(feeds)}")
        for name, array in feeds.items():
            spec = self.inputs[name]
            if not spec.accepts(array):
                raise BackendError(
                    f"graph input {name!r} is {array.dtype} {array.shape}, expected {spec.dtype} {spec.shape}"
                )
        return self._run(feeds)

    @abstractmethod
    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        """The raw call, with the library's exceptions translated."""

    @abstractmethod
    def close(self) -> None:
        """Free the graph; further runs raise BackendError."""

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Backend(ABC):
    """A library that runs graphs."""

    name: str

    @abstractmethod
    def open(self, graph: Path, options: SessionOptions) -> Session:
        """Open a graph file.

        Raises:
            BackendError: the library refuses it.
        """

    @staticmethod
    def of_module(module: ModuleType) -> Backend:
        """The backend that a module defines as `BACKEND`."""
        backend = module.BACKEND
        if not isinstance(backend, Backend):
            raise BackendError(f"{module.__name__} defines no backend")
        return backend


def first_line(error: Exception) -> str:
    """A library's message without its stack of lines."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
