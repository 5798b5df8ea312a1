"""The onnx target: five graphs in one folder that share one file of weights."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, external_data_helper, numpy_helper
from torch import Tensor, nn

from ..errors import AuditError, ExportError
from ..models.codec import CodecModel
from .graphs import DecoderGraph, EncoderGraph, QuantizerGraph, RouterGraph, TokenizerGraph

OPSET = 17
IR_VERSION = 8
WEIGHTS = "weights.bin"
SHARED_FROM = 1024  # bytes; smaller constants stay inside their graph
ALIGNMENT = 4096


def export_onnx(model: CodecModel, folder: Path) -> dict[str, str]:
    """Write encoder, quantizer, router, tokenizer and decoder as fp32 ONNX, dynamic batch.

    Equal constants are stored once, in `weights.bin` beside the graphs (ONNX external data), because tokenizer,
    quantizer and decoder hold the same codebooks and tokenizer and encoder the same encoder.

    Args:
        model: a codec in evaluation mode on the CPU.
        folder: an empty folder to fill.

    Returns:
        Graph name -> file name.

    Raises:
        ExportError: torch or the ONNX checker refused a graph.
        AuditError: the written opset, IR version or batch is not what was requested.
    """
    config = model.config
    image = torch.zeros(2, config.image_size, config.image_size, 3, dtype=torch.uint8)
    latents = torch.zeros(2, config.tokens, config.dim)
    group, indices = torch.zeros(2, dtype=torch.int32), torch.zeros(2, config.tokens, dtype=torch.int32)
    plans: dict[str, tuple[nn.Module, dict[str, Tensor], list[str]]] = {
        "encoder": (EncoderGraph(model), {"image": image}, ["latents"]),
        "quantizer": (QuantizerGraph(model), {"latents": latents}, ["group", "indices"]),
        "router": (RouterGraph(model), {"latents": latents}, ["scores"]),
        "tokenizer": (TokenizerGraph(model), {"image": image}, ["group", "indices"]),
        "decoder": (DecoderGraph(model), {"group": group, "indices": indices}, ["image"]),
    }
    stored: dict[str, tuple[int, int]] = {}
    with (folder / WEIGHTS).open("wb") as weights:
        for name, (module, inputs, outputs) in plans.items():
            path = folder / f"{name}.onnx"
            _trace(module, inputs, outputs, path)
            proto = onnx.load(path)
            proto.ir_version = IR_VERSION
            proto.producer_name = "stcq"
            share_weights(proto, weights, stored)
            path.write_bytes(proto.SerializeToString(deterministic=True))
    for name in plans:
        audit(folder / f"{name}.onnx")
    return {name: f"{name}.onnx" for name in plans}


def _trace(module: nn.Module, inputs: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """One graph from torch, by tracing with batch 2 so that the batch stays free."""
    axes = {name: {0: "batch"} for name in [*inputs, *outputs]}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracing exporter announces its successor on every call
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                str(path),
                dynamo=False,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes=axes,
                do_constant_folding=True,
            )
    except Exception as error:  # torch raises many kinds here
        raise ExportError(f"torch cannot export the {path.stem} graph: {error}") from error


def share_weights(proto: onnx.ModelProto, weights: Any, stored: dict[str, tuple[int, int]]) -> None:
    """Move a graph's large constants into the shared file.

    Args:
        proto: the graph, changed in place.
        weights: the binary file to append to.
        stored: content hash -> (offset, length) of what the file already holds.
    """
    for tensor in proto.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < SHARED_FROM:
            continue
        key = hashlib.sha256(raw).hexdigest()
        if key not in stored:
            weights.write(bytes(-weights.tell() % ALIGNMENT))
            stored[key] = (weights.tell(), len(raw))
            weights.write(raw)
        offset, length = stored[key]
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
        tensor.raw_data = b"x"  # set_external_data asks for it
        external_data_helper.set_external_data(tensor, WEIGHTS, offset, length)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL


def audit(path: Path) -> None:
    """Check a written graph: valid, opset, IR version, free batch, fp32 constants, no BatchNormalization left."""
    try:
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # onnx raises its own and protobuf's types
        raise ExportError(f"the {path.stem} graph is not valid ONNX: {error}") from error
    opset = {o.domain: o.version for o in proto.opset_import}
    if opset != {"": OPSET} or proto.ir_version != IR_VERSION:
        raise AuditError(f"{path.stem}: opset {opset} and IR {proto.ir_version}, requested {OPSET} and {IR_VERSION}")
    for value in [*proto.graph.input, *proto.graph.output]:
        if value.type.tensor_type.shape.dim[0].dim_param != "batch":
            raise AuditError(f"{path.stem}: the batch of {value.name!r} is fixed, requested dynamic")
    types = {tensor.data_type for tensor in proto.graph.initializer}
    if not types <= {TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL, TensorProto.INT32}:
        raise AuditError(f"{path.stem}: constants of type {sorted(types)}, requested fp32")
    if any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        raise AuditError(f"{path.stem}: a BatchNormalization was not folded")
