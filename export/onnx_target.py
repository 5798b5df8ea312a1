"""The onnx target: five graphs in one folder that share their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from ..errors import AuditError, ExportError
from ..models.codec import CodecModel
from .half import to_half
from .request import OPSET, Built, Request, relative
from .scope import is_scoped
from .storage import shrink_constants
from .trace import trace
from .weights import WeightStore, attach
from .winograd import to_winograd

BACKEND = "onnxruntime"
COMPUTE = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


def choose_opset(request: Request) -> int:
    """The opset of a request."""
    return request.opset or OPSET


def build(model: CodecModel, request: Request, bundle: Path) -> Built:
    """Write the variant into the bundle.

    Raises:
        ExportError: torch or the ONNX checker refused a graph.
    """
    opset = choose_opset(request)
    folder = bundle / request.name
    half = request.precision == "fp16"
    files = write_graphs(model, folder, opset, request.batch, half=half, winograd=request.winograd and not half)
    graphs = {graph: tuple(relative(folder / file, bundle) for file in names) for graph, names in files.items()}
    facts = read_back([folder / names[0] for names in files.values()])
    return Built(BACKEND, graphs, facts, {"target": "onnx"})


def write_graphs(
    model: CodecModel,
    folder: Path,
    opset: int = OPSET,
    batch: int | None = None,
    *,
    half: bool = False,
    half_weights: bool = False,
    compact: bool = True,
    winograd: bool = False,
) -> dict[str, tuple[str, ...]]:
    """Write encoder, quantizer, router, tokenizer and decoder as ONNX.

    Equal constants are stored once (ONNX external data): a graph keeps in its `.bin` what no graph before it has,
    so the tokenizer reads encoder.bin and quantizer.bin, and the decoder reads quantizer.bin, where the codebooks
    are, and decoder.bin. A camera that only encodes never reads the decoder's weights.

    Args:
        model: a codec in evaluation mode on the CPU.
        folder: made if missing.
        opset: the ONNX opset.
        batch: the fixed batch; None = free.
        half: the backbone's arithmetic in fp16.
        half_weights: the backbone's weights stored in fp16, arithmetic in fp32.
        winograd: 3x3 convolutions of tokenizer and decoder in Winograd's form where CPUs compute that faster; the
            encoder, which int8 is made of, keeps its own.
        compact: store constants that fp16 (codebooks: int8 with a scale too) holds exactly in that, with a Cast.

    Returns:
        Graph name -> its file, then the files of weights it reads.

    Raises:
        ExportError: torch or the ONNX checker refused a graph.
    """
    folder.mkdir(parents=True, exist_ok=True)
    traced = trace(model, opset, batch)
    books = model.codebooks.weight.detach().numpy()
    store = WeightStore(folder)
    files = {}
    for name, proto in traced.protos.items():
        own = f"{name}.bin"
        if winograd and name in ("tokenizer", "decoder"):
            proto = to_winograd(proto)
        if half:
            proto = to_half(proto)
        if half_weights:
            shrink_constants(proto, scoped=is_scoped, exact=False)
        if compact:
            shrink_constants(proto)
        attach(proto, traced.constants, store, own, books if compact else None)
        files[name] = (f"{name}.onnx", *store.share(proto, own))
        path = folder / f"{name}.onnx"
        path.write_bytes(proto.SerializeToString(deterministic=True))
        check(path)
    return files


def check(path: Path) -> None:
    """Check a written graph: valid ONNX, no BatchNormalization left.

    Raises:
        ExportError: it is not.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
        proto = onnx.load(path, load_external_data=False)
    except Exception as error:  # onnx raises its own and protobuf's types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(f"the {path.stem} graph is not valid ONNX: {reason}") from error
    if any(node.op_type == "BatchNormalization" for node in proto.graph.node):
        raise ExportError(f"{path.stem}: a BatchNormalization was not folded")


def read_back(paths: list[Path]) -> dict[str, Any]:
    """Precision, opset, IR version and batch of written graphs, which must agree among themselves.

    Raises:
        AuditError: the graphs disagree.
    """
    found: dict[str, set[Any]] = {"opset": set(), "ir_version": set(), "batch": set()}
    kinds = set()
    for path in paths:
        proto = onnx.load(path, load_external_data=False)
        found["opset"].add(next(o.version for o in proto.opset_import if not o.domain))
        found["ir_version"].add(proto.ir_version)
        for value in [*proto.graph.input, *proto.graph.output]:
            first = value.type.tensor_type.shape.dim[0]
            found["batch"].add("dynamic" if first.dim_param == "batch" else first.dim_value or first.dim_param)
        kinds |= compute_types(proto)
    for what, values in found.items():
        if len(values) != 1:
            raise AuditError(f"the graphs of {paths[0].parent.name} differ in their {what}: {sorted(map(str, values))}")
    return {"precision": "fp16" if "fp16" in kinds else "fp32"} | {what: min(values) for what, values in found.items()}


def compute_types(proto: onnx.ModelProto) -> set[str]:
    """The types in which a graph multiplies.

    Raises:
        AuditError: the codebook distance is not in fp32.
    """
    types = {value.name: value.type.tensor_type.elem_type for value in [*proto.graph.value_info, *proto.graph.output]}
    types |= {value.name: value.type.tensor_type.elem_type for value in proto.graph.input}
    types |= {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    known = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    kinds = set()
    for node in proto.graph.node:
        if node.op_type in COMPUTE:
            kind = known.get(types.get(node.output[0], 0), "unknown")
            if kind != "fp32" and not is_scoped(node.name):
                raise AuditError(f"{node.name} computes in {kind}; the codebook distance must stay fp32")
            kinds.add(kind)
    return kinds
