"""A stand-in for TensorRT: the recorded names of one release and no others, computing with ONNX Runtime on the host."""

from __future__ import annotations

import ctypes
import inspect
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from stcq.runtime.backends.cuda import Gpu

SIGNATURES: dict[str, dict[str, dict[str, str]]] = json.loads(
    Path(__file__).with_name("tensorrt_signatures.json").read_text()
)
KINDS = {"tensor(uint8)": "UINT8", "tensor(int32)": "INT32", "tensor(float)": "FLOAT", "tensor(int64)": "INT64"}


class Value(int):
    """A member of an enumeration."""

    name: str


class Strict:
    """An object that has the public names recorded for its class, with the recorded number of arguments."""

    recorded: dict[str, str]

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "recorded":
            return object.__getattribute__(self, name)
        if name not in self.recorded:
            raise AttributeError(f"this release of TensorRT has no {type(self).__name__}.{name}")
        found = object.__getattribute__(self, name)
        signature = self.recorded[name]
        if inspect.ismethod(found) and "*args" not in signature and "(" in signature:
            allowed = signature[signature.index("(") : signature.rindex(")")].count(": ") - 1  # without self
            most = len(inspect.signature(found).parameters)
            assert most <= allowed, f"{type(self).__name__}.{name} takes {allowed} arguments: {signature}"
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and self.recorded.get(name) != "property rw":
            raise AttributeError(f"this release of TensorRT has no writable {type(self).__name__}.{name}")
        object.__setattr__(self, name, value)


def stand_in(release: str) -> Any:
    """The module `tensorrt` of a release; `module.built` lists what its builders were told."""
    record = SIGNATURES[release]
    trt: Any = types.SimpleNamespace(__version__=release, built=[])

    def enumeration(name: str) -> Any:
        members = [member for member, kind in record[name].items() if kind == "constant"]
        values = {member: Value(number) for number, member in enumerate(members)}
        for member, value in values.items():
            value.name = member
        return types.SimpleNamespace(**values)

    for name in record:
        if any(kind == "constant" for kind in record[name].values()):
            setattr(trt, name, enumeration(name))

    def strict(name: str) -> type[Strict]:
        return type(name, (Strict,), {"recorded": record[name]})

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"

        def __init__(self) -> None:
            self.ready = True  # as in pybind11, a subclass that forgets this call fails

    class Tensor(strict("ITensor")):  # type: ignore[misc]
        def __init__(self, dtype: Any) -> None:
            object.__setattr__(self, "dtype", dtype)

    class Layer(strict("ILayer")):  # type: ignore[misc]
        def __init__(self, node: onnx.NodeProto, kinds: dict[str, int]) -> None:
            names = {onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.FLOAT16: "HALF"}
            special = {"Softmax": "SOFTMAX", "ReduceMean": "REDUCE", "Conv": "CONVOLUTION"}
            dtypes = [getattr(trt.DataType, names.get(kinds.get(o, 0), "INT32")) for o in node.output]
            object.__setattr__(self, "_outputs", [Tensor(dtype) for dtype in dtypes])
            object.__setattr__(self, "name", node.name)
            object.__setattr__(self, "type", getattr(trt.LayerType, special.get(node.op_type, "SHUFFLE")))
            object.__setattr__(self, "num_outputs", len(node.output))

        def get_output(self, index: int) -> Tensor:
            return self._outputs[index]  # type: ignore[no-any-return]

        def set_output_type(self, index: int, dtype: Any) -> None:
            self._pinned = dtype

    class Network(strict("INetworkDefinition")):  # type: ignore[misc]
        def __init__(self, flags: int) -> None:
            self._flags, self._layers, self._path = flags, [], ""

        @property
        def num_layers(self) -> int:
            return len(self._layers)

        def get_layer(self, index: int) -> Layer:
            return self._layers[index]  # type: ignore[no-any-return]

    class OnnxParser(strict("OnnxParser")):  # type: ignore[misc]
        def __init__(self, network: Network, logger: Any) -> None:
            assert logger.ready
            self._network, self._errors = network, []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> Any:
            return types.SimpleNamespace(desc=lambda: self._errors[index])

        def parse_from_file(self, model: str) -> bool:
            try:
                proto = onnx.load(model)
            except Exception:
                self._errors.append("this is no ONNX\nand more lines")
                return False
            values = [*proto.graph.value_info, *proto.graph.output]
            kinds = {value.name: value.type.tensor_type.elem_type for value in values}
            self._network._layers = [Layer(node, kinds) for node in proto.graph.node]
            self._network._path = model
            return True

    class Profile(strict("IOptimizationProfile")):  # type: ignore[misc]
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes[input] = (min, opt, max)

    class TimingCache(strict("ITimingCache")):  # type: ignore[misc]
        def __init__(self, content: bytes) -> None:
            self._content = content

        def serialize(self) -> bytes:
            return self._content + b"+"

    class Config(strict("IBuilderConfig")):  # type: ignore[misc]
        def __init__(self) -> None:
            self._flags, self._cleared, self._profiles, self._cache = set(), set(), [], None

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            assert pool_size >= 1 << 20

        def set_flag(self, flag: Any) -> None:
            self._flags.add(flag.name)

        def clear_flag(self, flag: Any) -> None:
            self._cleared.add(flag.name)

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
            return TimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            self._cache = cache
            return True

        def get_timing_cache(self) -> TimingCache | None:
            return self._cache  # type: ignore[no-any-return]

        def add_optimization_profile(self, profile: Profile) -> int:
            self._profiles.append(profile)
            return 0

    class Builder(strict("Builder")):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            assert logger.ready
            self._logger = logger

        def create_network(self, flags: int) -> Network:
            return Network(flags)

        def create_builder_config(self) -> Config:
            return Config()

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> bytes | None:
            if trt.refuse:
                self._logger.log(ILogger.ERROR, "no tactic found\nand more")
                return None
            trt.built.append((network, config))
            strong = (
                not hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH") or int(release.split(".")[0]) >= 10
            )
            layers = []
            for layer in network._layers:
                own = "HALF" if any(t.dtype is trt.DataType.HALF for t in layer._outputs) else "FLOAT"
                floats = [t for t in layer._outputs if t.dtype is not trt.DataType.INT32]
                weak = (
                    "HALF"
                    if "FP16" in config._flags and floats and getattr(layer, "_pinned", None) is None
                    else "FLOAT"
                )
                kind = {"HALF": "Half", "FLOAT": "Float"}[own if strong else weak]
                if "PretendFp32" in trt.moods:
                    kind = "Float"
                split = {"Format": "Row major linear", "DataType": kind}
                glued = {"Format/Datatype": f"Row major linear {'FP16 format' if kind == 'Half' else 'FP32'}"}
                layers.append({"Name": layer.name, "Outputs": [split if release.startswith("11") else glued]})
            return json.dumps({"path": network._path, "layers": layers}).encode()

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

    trt.ILogger, trt.Builder, trt.OnnxParser, trt.Runtime = ILogger, Builder, OnnxParser, Runtime
    trt.refuse, trt.moods = False, set()
    return trt


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
