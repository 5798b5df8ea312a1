"""From torch modules to ONNX protos: traced, simplified, shape-inferred, codebooks left out as placeholders."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from typing import Any, cast

import onnx
import onnxslim
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import ExportError
from ..models.codec import CodecModel
from .graphs import DecoderGraph, EncoderGraph, QuantizerGraph, RouterGraph, TokenizerGraph, columns, norms_of

IR_VERSION = 8
TRACE_BATCH = 2  # with 1, the exporter may bake the batch in


@dataclass
class Traced:
    """The graphs of a codec, and the constants that stand as inputs in them.

    Attributes:
        protos: graph name -> ONNX model.
        constants: input name -> its value, "books" (T, d, M * K) and "norms" (T, 1, M * K); a graph has some of them.
    """

    protos: dict[str, onnx.ModelProto]
    constants: dict[str, NDArray[Any]]


def trace(model: CodecModel, opset: int, batch: int | None) -> Traced:
    """Trace encoder, quantizer, router, tokenizer and decoder.

    Args:
        model: a codec in evaluation mode on the CPU.
        opset: the ONNX opset.
        batch: the fixed batch; None = free.

    Raises:
        ExportError: torch cannot export a graph, or the simplifier cannot read what torch wrote.
    """
    config = model.config
    rows = batch or TRACE_BATCH
    books = model.codebooks.weight.detach()  # (M, T or 1, K, d)
    flat, norms = columns(books), norms_of(books)
    image = torch.zeros(rows, config.image_size, config.image_size, 3, dtype=torch.uint8)
    latents = torch.zeros(rows, config.tokens, config.dim)
    group, indices = torch.zeros(rows, dtype=torch.int32), torch.zeros(rows, config.tokens, dtype=torch.int32)
    distance = {"books": flat, "norms": norms}
    plans: dict[str, tuple[nn.Module, dict[str, Tensor], dict[str, Tensor], list[str]]] = {
        "encoder": (EncoderGraph(model), {"image": image}, {}, ["latents"]),
        "quantizer": (QuantizerGraph(model), {"latents": latents}, distance, ["group", "indices"]),
        "router": (RouterGraph(model), {"latents": latents}, {}, ["scores"]),
        "tokenizer": (TokenizerGraph(model), {"image": image}, distance, ["group", "indices"]),
        "decoder": (DecoderGraph(model), {"group": group, "indices": indices}, {"books": flat}, ["image"]),
    }
    protos = {}
    for name, (module, inputs, constants, outputs) in plans.items():
        dynamic = None if batch else {tensor: {0: "batch"} for tensor in [*inputs, *outputs]}
        protos[name] = simplify(_trace(name, module, inputs | constants, outputs, opset, dynamic))
    return Traced(protos, {"books": flat.numpy(), "norms": norms.numpy()})


def _trace(
    name: str,
    module: nn.Module,
    inputs: dict[str, Tensor],
    outputs: list[str],
    opset: int,
    dynamic: dict[str, dict[int, str]] | None,
) -> onnx.ModelProto:
    """One graph from torch, by its tracing exporter, which writes the requested opset itself."""
    written = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracing exporter announces its successor on every call
            torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                cast(Any, written),  # the annotation knows paths only
                dynamo=False,
                opset_version=opset,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_axes=dynamic,
                do_constant_folding=True,
            )
    except Exception as error:  # torch raises many kinds here
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"torch cannot export the {name} graph at opset {opset}: {reason}") from error
    return onnx.load_from_string(written.getvalue())


def simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants, drop what does nothing, name every tensor's shape; inputs and outputs stay as they are.

    Raises:
        ExportError: the simplifier failed or changed the graph's borders.
    """
    before = borders(proto)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            slim = onnxslim.slim(onnx.ModelProto.FromString(proto.SerializeToString()))
            slim.ir_version, slim.producer_name, slim.producer_version = IR_VERSION, "stcq", ""
            slim = onnx.shape_inference.infer_shapes(slim, data_prop=True)
    except Exception as error:  # see above
        raise ExportError(f"a graph cannot be simplified: {error}") from error
    if before != borders(slim):
        raise ExportError(
            "simplifying a graph changed its inputs or outputs; a network that fixes the batch does so (use x.shape[0] "
            "or reshape(-1, ...) in it), else use another release of onnxslim"
        )
    return slim


def borders(proto: onnx.ModelProto) -> list[tuple[str, int, Any]]:
    """Name, type and batch of every input and output."""
    values = [(value.name, value.type.tensor_type) for value in [*proto.graph.input, *proto.graph.output]]
    return [(name, kind.elem_type, kind.shape.dim[0].dim_param or kind.shape.dim[0].dim_value) for name, kind in values]
