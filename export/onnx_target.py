"""The onnx target: five graphs in one folder that share their weights."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path
from typing import NamedTuple

import onnx
import torch
from onnx import TensorProto, external_data_helper, numpy_helper
from torch import Tensor, nn

from ..errors import AuditError, ExportError
from ..models.codec import CodecModel
from .graphs import DecoderGraph, EncoderGraph, QuantizerGraph, RouterGraph, TokenizerGraph

OPSET = 17
IR_VERSION = 8
SHARED_FROM = 1024  # bytes; smaller constants stay inside their graph
ALIGNMENT = 4096


class Place(NamedTuple):
    """Where a constant is stored."""

    file: str
    offset: int
    length: int


def export_onnx(model: CodecModel, folder: Path) -> dict[str, tuple[str, ...]]:
    """Write encoder, quantizer, router, tokenizer and decoder as fp32 ONNX, dynamic batch.

    Equal constants are stored once (ONNX external data): a graph keeps in its `.bin` what no graph before it has,
    so the tokenizer reads encoder.bin and quantizer.bin, and the decoder reads quantizer.bin, where the codebooks
    are, and decoder.bin. A camera that only encodes never reads the decoder's weights.

    Args:
        model: a codec in evaluation mode on the CPU.
        folder: an empty folder to fill.

    Returns:
        Graph name -> its file, then the files of weights it reads.

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
    places: dict[str, Place] = {}
    files = {}
    for name, (module, inputs, outputs) in plans.items():
        path = folder / f"{name}.onnx"
        _trace(module, inputs, outputs, path)
        proto = onnx.load(path)
        proto.ir_version = IR_VERSION
        proto.producer_name = "stcq"
        files[name] = (path.name, *share_weights(proto, folder / f"{name}.bin", places))
        path.write_bytes(proto.SerializeToString(deterministic=True))
        audit(path)
    return files


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


def share_weights(proto: onnx.ModelProto, own: Path, places: dict[str, Place]) -> list[str]:
    """Move a graph's large constants into files of weights, equal ones to the same place.

    Args:
        proto: the graph, changed in place.
        own: the file for constants that no earlier graph stored; made if needed.
        places: content hash -> place of everything stored so far; extended.

    Returns:
        The names of the files that the graph reads.
    """
    used = set()
    content = bytearray()
    for tensor in proto.graph.initializer:
        raw = numpy_helper.to_array(tensor).tobytes()
        if len(raw) < SHARED_FROM:
            continue
        key = hashlib.sha256(raw).hexdigest()
        if key not in places:
            content += bytes(-len(content) % ALIGNMENT)
            places[key] = Place(own.name, len(content), len(raw))
            content += raw
        place = places[key]
        used.add(place.file)
        for field in ("raw_data", "float_data", "int32_data", "int64_data"):
            tensor.ClearField(field)
        tensor.raw_data = b"x"  # set_external_data asks for it
        external_data_helper.set_external_data(tensor, place.file, place.offset, place.length)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
    if content:
        own.write_bytes(content)
    return sorted(used)


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
