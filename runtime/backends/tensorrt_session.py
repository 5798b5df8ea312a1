"""Running engines of TensorRT 8.5 to 11 over named tensors; one path for all of them.

Checked against the recorded signatures of four releases, with a stand-in that keeps to them and computes with ONNX
Runtime (tests/runtime/test_tensorrt.py); never run on a GPU so far.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import BackendError
from .base import Arrays, Backend, Session, SessionOptions, TensorSpec, first_line
from .cuda import Cuda
from .tensorrt_engine import Engines, default_cache
from .tensorrt_recipe import RECIPE, Recipe

DTYPES = {"UINT8": np.uint8, "INT32": np.int32, "INT64": np.int64, "FLOAT": np.float32}


class TensorRtSession(Session):
    """An engine with one execution context, one stream and memory on the GPU for the largest batch."""

    precision = "graph"

    def __init__(self, trt: Any, cuda: Cuda, graph: Path, options: SessionOptions) -> None:
        self._cuda = cuda
        engines = Engines(trt, cuda.gpu(), options.cache or default_cache())
        self._memory: dict[str, int] = {}
        self._stream = 0
        try:
            content, self.facts = engines.get(graph)
            self._runtime = trt.Runtime(engines.logger)
            self._engine = self._runtime.deserialize_cuda_engine(content)
            if self._engine is None:
                raise BackendError(f"TensorRT cannot load the engine of {graph.name}: {engines.logger.last}")
            self._context: Any = self._engine.create_execution_context()
            self._read_tensors(trt)
            self._allocate(Recipe.load(graph.parent / RECIPE).profiles[graph.stem])
        except BackendError:
            self.close()
            raise
        except Exception as error:  # TensorRT raises RuntimeError, TypeError and ValueError
            self.close()
            raise BackendError(f"tensorrt cannot open {graph.name}: {first_line(error)}") from error

    def _read_tensors(self, trt: Any) -> None:
        """Names, types and shapes of the engine's inputs and outputs."""
        self.inputs, self.outputs = {}, {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            kind = self._engine.get_tensor_dtype(name).name
            if kind not in DTYPES:
                raise BackendError(f"engine tensor {name!r} has type {kind}, which stcq graphs never use")
            shape = tuple(None if size < 0 else int(size) for size in self._engine.get_tensor_shape(name))
            is_input = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if is_input else self.outputs)[name] = TensorSpec(np.dtype(DTYPES[kind]), shape)

    def _allocate(self, profile: dict[str, dict[str, list[int]]]) -> None:
        """Memory for the profile's largest batch."""
        self.most_rows = min(shapes["max"][0] for shapes in profile.values())
        self._stream = self._cuda.new_stream()
        for name, spec in (self.inputs | self.outputs).items():
            count = math.prod(self.most_rows if size is None else size for size in spec.shape)
            self._memory[name] = self._cuda.allocate(max(count * spec.dtype.itemsize, 1))

    def _run(self, feeds: Mapping[str, NDArray[Any]]) -> Arrays:
        if self._context is None:
            raise BackendError("session is closed; open the graph again")
        rows = len(next(iter(feeds.values())))
        if self.most_rows is not None and rows > self.most_rows:
            raise BackendError(f"{rows} rows are more than the engine's {self.most_rows}; give fewer at once")
        try:
            sent = {name: np.ascontiguousarray(array) for name, array in feeds.items()}  # kept until the stream is done
            for name, array in sent.items():
                self._must(self._context.set_input_shape(name, array.shape), f"shape {array.shape} of {name!r}")
                self._cuda.send(array, self._memory[name], self._stream)
            for name, address in self._memory.items():
                self._must(self._context.set_tensor_address(name, address), f"address of {name!r}")
            self._must(self._context.execute_async_v3(self._stream), "execution")
            results = {}
            for name, spec in self.outputs.items():
                results[name] = np.empty(tuple(self._context.get_tensor_shape(name)), spec.dtype)
                self._cuda.fetch(self._memory[name], results[name], self._stream)
            self._cuda.synchronize(self._stream)
        except BackendError:
            raise
        except Exception as error:  # see above
            raise BackendError(f"tensorrt failed: {first_line(error)}") from error
        return results

    def _must(self, worked: bool, what: str) -> None:
        """TensorRT reports failures as False."""
        if not worked:
            raise BackendError(f"tensorrt refused the {what}")

    def close(self) -> None:
        self._context = self._engine = self._runtime = None
        with contextlib.suppress(BackendError):  # a lost GPU cannot free anything
            for address in self._memory.values():
                self._cuda.free(address)
            if self._stream:
                self._cuda.free_stream(self._stream)
        self._memory, self._stream = {}, 0


class TensorRtBackend(Backend):
    """Opens .onnx files with a recipe.json beside them."""

    name = "tensorrt"

    def __init__(self, trt: Any, cuda: Callable[[], Cuda]) -> None:
        self._trt, self._make_cuda = trt, cuda

    def open(self, graph: Path, options: SessionOptions) -> Session:
        if not graph.is_file():
            raise BackendError(f"tensorrt cannot open {graph.name}: there is no such file")
        return TensorRtSession(self._trt, self._make_cuda(), graph, options)
