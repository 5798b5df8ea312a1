"""int8 encoders as ONNX graphs with QuantizeLinear / DequantizeLinear pairs (QDQ), by onnxruntime.quantization."""

from __future__ import annotations

import contextlib
import logging
import platform
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import onnx
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType

from .byte_input import find_normalised, read_bytes
from .floating import QUANTISED, float_nodes


class Form(NamedTuple):
    """How int8 is written.

    Attributes:
        activations: "u8" (zero point 0 after a ReLU, in or near the middle elsewhere) or "s8" (zero point 0).
        reduced: 7-bit weights, which cannot overflow the 16-bit sums of x86 CPUs without VNNI.
        pairs: weights and biases stay float with a pair behind each weight, as TensorRT wants them.
        needs: x86 CPUs compute it exactly only with one of these.
    """

    activations: str
    reduced: bool = False
    pairs: bool = False
    needs: tuple[str, ...] = ()


VNNI = ("avx_vnni", "avx512_vnni", "amx_int8")
FORMS = {
    "u8s8": Form("u8", needs=VNNI),
    "u8s7": Form("u8", reduced=True),  # for x86 without VNNI
    "s8s8": Form("s8"),  # for Arm; slow on x86
    "tensorrt": Form("s8", pairs=True),
}


def form_for(features: Collection[str], machine: str = "") -> str:
    """The form that this CPU computes fast and exactly.

    Args:
        features: as `stcq.runtime.machine.cpu_features` names them.
        machine: as `platform.machine` says; "" = this one.
    """
    if (machine or platform.machine()) not in ("x86_64", "AMD64"):
        return "s8s8"
    return "u8s8" if any(name in features for name in VNNI) else "u8s7"


def quantise(proto: onnx.ModelProto, ranges: Any, form: Form, floating: Collection[str] = ()) -> onnx.ModelProto:
    """A float encoder -> the same graph in int8; everything outside the backbone stays float.

    Weights are symmetric int8 with a scale for each output channel (where the operator has channels), activations
    have one scale each and no offset but what the unsigned type needs. Unsigned ones begin with the picture's bytes.

    Args:
        proto: the float encoder, left unchanged.
        ranges: of its tensors, from `find_ranges`.
        form: how int8 is written.
        floating: names of layers that stay float.
    """
    copy = onnx.ModelProto.FromString(proto.SerializeToString())
    kind = QuantType.QUInt8 if form.activations == "u8" else QuantType.QInt8
    options: dict[str, Any] = {
        "WeightSymmetric": True,
        "ActivationSymmetric": form.activations == "s8",
        "ActivationRestrictedAsymmetric": form.activations == "u8",
    }
    if form.pairs:
        options |= {"AddQDQPairToWeight": True, "DedicatedQDQPair": True, "QuantizeBias": False}
        options |= {"OpTypesToExcludeOutputQuantization": ["Conv", "MatMul", "Gemm", "ConvTranspose"]}
    normalised = find_normalised(proto) if form.activations == "u8" else None
    if normalised is not None:
        options["TensorQuantOverrides"] = normalised.override
    with _quiet():
        quantizer = QDQQuantizer(
            copy,
            True,
            form.reduced,
            QuantType.QInt8,
            kind,
            ranges,
            [],
            float_nodes(proto, floating),
            QUANTISED,
            options,
        )
        quantizer.quantize_model()
    result: onnx.ModelProto = quantizer.model.model
    result.ir_version, result.producer_name = proto.ir_version, "stcq"
    del result.metadata_props[:]
    if normalised is not None:
        read_bytes(result, normalised)
    return onnx.shape_inference.infer_shapes(result)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The library speaks to people who call it by hand."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)
