"""The half of the stand-in that builds: a network read from ONNX, a configuration, an engine that is a line of JSON."""

from __future__ import annotations

import json
import types
from typing import Any

import onnx
from tensorrt_names import strict as strict_names


class ILogger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal", "warning"

    def __init__(self) -> None:
        self.ready = True  # as in pybind11, a subclass that forgets this call fails


def parts(trt: Any) -> tuple[type, type]:
    """Builder and OnnxParser for a module with a release's enumerations."""
    release, strict = trt.__version__, strict_names(trt.__version__)

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

    return Builder, OnnxParser
