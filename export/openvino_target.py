"""The openvino target: the five graphs as OpenVINO IR, an .xml and a .bin each, as OpenVINO's own tools expect them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from ..errors import AuditError, ExportError
from ..models.codec import CodecModel
from .onnx_target import write_graphs
from .request import OPSET, Built, Request, relative
from .scope import is_scoped

BACKEND = "openvino"
TENSORS = {
    "encoder": ("image", "latents"),
    "quantizer": ("latents", "group", "indices"),
    "router": ("latents", "scores"),
    "tokenizer": ("image", "group", "indices"),
    "decoder": ("group", "indices", "image"),
}
SMALL = 1024  # numbers; smaller constants say nothing about the precision


def choose_opset(request: Request) -> int:
    """The ONNX opset that the conversion starts from."""
    return request.opset or OPSET


def build(model: CodecModel, request: Request, bundle: Path) -> Built:
    """Write the variant into the bundle.

    fp32 is saved uncompressed. At fp16 the backbone's constants are float16 with a Convert behind each, which is what
    OpenVINO's own compression writes too; that one would round the codebooks as well, so it is not used.

    Raises:
        ExportError: OpenVINO refused a graph or could not write it.
    """
    opset = choose_opset(request)
    folder = bundle / request.name
    folder.mkdir()
    graphs = {}
    with tempfile.TemporaryDirectory(dir=bundle.parent) as scratch:
        files = write_graphs(model, Path(scratch), opset, request.batch, compact=False)
        for graph, names in files.items():
            path = folder / f"{graph}.xml"
            try:
                converted = ov.convert_model(Path(scratch) / names[0])
                keep_names(converted, TENSORS[graph])
                if request.precision == "fp16":
                    compress(converted)
                ov.serialize(converted, path, path.with_suffix(".bin"))
                facts = read_back(ov.Core().read_model(path))
            except Exception as error:  # OpenVINO raises RuntimeError and its own types
                check_room(folder, sum((Path(scratch) / name).stat().st_size for name in names))
                raise ExportError(f"OpenVINO cannot convert the {graph} graph: {error_line(error)}") from error
            if graph == "encoder":
                expected = facts
            elif facts["batch"] != expected["batch"]:
                raise AuditError(f"{request.name}: {graph} has batch {facts['batch']}, encoder {expected['batch']}")
            graphs[graph] = tuple(relative(path.with_suffix(suffix), bundle) for suffix in (".xml", ".bin"))
    facts = expected | {"opset": opset, "ir_version": _ir_version(folder)}
    return Built(BACKEND, graphs, facts, {"target": "openvino", "openvino": ov.__version__})


def keep_names(model: Any, names: tuple[str, ...]) -> None:
    """Leave each input and output only its graph's name: a tensor also has those of the nodes that vanished."""
    for port in [*model.inputs, *model.outputs]:
        port.get_tensor().set_names(port.get_names() & set(names))


def compress(model: Any) -> None:
    """Store the backbone's large float32 constants as float16 with a Convert behind each, in place."""
    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != ov.Type.f32:
            continue
        ports = node.output(0).get_target_inputs()
        if node.data.size >= SMALL and any(is_scoped(port.get_node().get_friendly_name()) for port in ports):
            half = ops.constant(node.data.astype(np.float16))
            half.set_friendly_name(f"{node.get_friendly_name()}_half")
            decompressed = ops.convert(half, "f32").output(0)
            for port in ports:
                port.replace_source_output(decompressed)


def read_back(model: Any) -> dict[str, Any]:
    """Precision and batch of an IR model.

    Raises:
        AuditError: inputs and outputs differ in their batch, or codebooks or norms are not stored in float32.
    """
    sizes = {str(port.partial_shape[0]) for port in [*model.inputs, *model.outputs]}
    batches = {"dynamic" if size.startswith("?") else int(size) for size in sizes}
    if len(batches) != 1:
        raise AuditError(f"an openvino graph has several batches: {sorted(sizes)}")
    kinds = set()
    for node in model.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().is_real() and node.data.size >= SMALL:
            kind = node.get_element_type().get_type_name()
            if node.get_friendly_name().startswith(("books", "norms")) and kind != "f32":
                raise AuditError(f"{node.get_friendly_name()} is stored in {kind}; the codebook distance needs f32")
            kinds.add(kind)
    return {"precision": "fp16" if "f16" in kinds else "fp32", "batch": batches.pop()}


def check_room(folder: Path, size: int) -> None:
    """Raise the OSError that OpenVINO hides behind "iostream error" when the disk is full.

    Raises:
        OSError: `size` bytes cannot be written into the folder.
    """
    probe = folder / "probe"
    try:
        with probe.open("wb") as file:
            for start in range(0, size, 1 << 20):
                file.write(bytes(min(1 << 20, size - start)))
    finally:
        probe.unlink(missing_ok=True)


def error_line(error: Exception) -> str:
    """OpenVINO's message is a list of source lines; the last one says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _ir_version(folder: Path) -> int:
    """The IR version in the head of an .xml."""
    head = (folder / "encoder.xml").read_text(encoding="utf-8")[:1000]
    return int(head.partition("<net ")[2].partition('version="')[2].partition('"')[0])
