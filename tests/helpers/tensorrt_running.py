"""The half of the stand-in that runs: engines, contexts that compute with ONNX Runtime, host memory for a GPU."""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np
import onnxruntime as ort
from stcq.runtime.backends.cuda import Gpu
from tensorrt_names import strict as strict_names

KINDS = {"tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float)": "FLOAT", "tensor(int64)": "INT64"}


def runtime(trt: Any) -> type:
    """Runtime for a module with a release's enumerations."""
    strict = strict_names(trt.__version__)

    class Inspector(strict("EngineInspector")):  # type: ignore[misc]
        def __init__(self, layers: Any) -> None:
            self._layers = layers

        def get_engine_information(self, format: Any) -> str:
            return json.dumps({"Layers": self._layers})

    class Context(strict("IExecutionContext")):  # type: ignore[misc]
        def __init__(self, session: Any) -> None:
            self._session, self._shapes, self._addresses, self._results = session, {}, {}, {}

        def set_input_shape(self, name: str, shape: Any) -> bool:
            self._shapes[name] = tuple(shape)
            return True

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._addresses[name] = memory
            return memory != 0

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._results[name].shape  # type: ignore[no-any-return]

        def execute_async_v3(self, stream_handle: int) -> bool:
            feeds = {}
            for node in self._session.get_inputs():
                kind = np.dtype({"UINT8": np.uint8, "INT32": np.int32, "FLOAT": np.float32}[KINDS[node.type]])
                count = int(np.prod(self._shapes[node.name])) * kind.itemsize
                raw = ctypes.string_at(self._addresses[node.name], count)
                feeds[node.name] = np.frombuffer(raw, kind).reshape(self._shapes[node.name])
            names = [node.name for node in self._session.get_outputs()]
            self._results = dict(zip(names, self._session.run(names, feeds), strict=True))
            for name, array in self._results.items():
                ctypes.memmove(self._addresses[name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
            return True

    class Engine(strict("ICudaEngine")):  # type: ignore[misc]
        def __init__(self, facts: Any) -> None:
            self._facts = facts
            self._session = ort.InferenceSession(facts["path"], providers=["CPUExecutionProvider"])
            self._nodes = {n.name: n for n in [*self._session.get_inputs(), *self._session.get_outputs()]}
            self._inputs = {n.name for n in self._session.get_inputs()}

        @property
        def num_io_tensors(self) -> int:
            return len(self._nodes)

        def get_tensor_name(self, index: int) -> str:
            return list(self._nodes)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name in self._inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(size if isinstance(size, int) else -1 for size in self._nodes[name].shape)

        def get_tensor_dtype(self, name: str) -> Any:
            return getattr(trt.DataType, KINDS[self._nodes[name].type])

        def create_execution_context(self) -> Context:
            return Context(self._session)

        def create_engine_inspector(self) -> Inspector:
            return Inspector(self._facts["layers"])

    class Runtime(strict("Runtime")):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            assert logger.ready

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            return None if "CannotLoad" in trt.moods else Engine(json.loads(serialized_engine))

    return Runtime


class StandInCuda:
    """Host memory under the names of `stcq.runtime.backends.cuda.Cuda`."""

    def __init__(self) -> None:
        self.device = Gpu("Orin", "8.7", "12.6")
        self.memory: dict[int, Any] = {}

    def gpu(self) -> Gpu:
        return self.device

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(self, address: int) -> None:
        del self.memory[address]

    def new_stream(self) -> int:
        return 1

    def free_stream(self, stream: int) -> None:
        pass

    def synchronize(self, stream: int) -> None:
        pass

    def send(self, array: np.ndarray, address: int, stream: int) -> None:
        assert array.nbytes <= len(self.memory[address]), "more than was allocated"
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    def fetch(self, address: int, array: np.ndarray, stream: int) -> None:
        assert array.nbytes <= len(self.memory[address])
        ctypes.memmove(array.ctypes.data, address, array.nbytes)
