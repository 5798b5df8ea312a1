"""Variants of several targets in one bundle: what was requested is what was built, and old ones stay or go rightly."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from stcq.errors import AuditError, BackendMissing, ExportError, ParityError
from stcq.export import onnx_target, targets
from stcq.export.audit import audit
from stcq.export.cli import export as export_command
from stcq.export.export import export
from stcq.export.onnx_target import compute_types
from stcq.export.request import Built, Request
from stcq.export.trace import simplify
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.verify import verify

SMALL_BACKBONE = {
    **{"encoder_stem": 8, "encoder_widths": [8, 8, 8], "encoder_blocks": [0, 0, 0], "encoder_mixers": 0},
    **{"decoder_stem": 8, "decoder_widths": [8, 8, 8], "decoder_blocks": [0, 0, 0], "decoder_mixers": 0},
}


def manifest(bundle: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())
    return loaded


def names(bundle: Path) -> list[str]:
    return [variant["name"] for variant in manifest(bundle)["variants"]]


def proto(bundle: Path, variant: str, graph: str) -> onnx.ModelProto:
    [entry] = [v for v in manifest(bundle)["variants"] if v["name"] == variant]
    return onnx.load(bundle / entry["graphs"][graph][0])


def test_every_target_says_what_it_built(targets_bundle: Path) -> None:
    variants = manifest(targets_bundle)["variants"]
    assert [v["name"] for v in variants] == [
        *("onnx-fp32", "onnx-fp16", "openvino-fp32", "openvino-fp16", "tensorrt-fp32", "tensorrt-fp16")
    ]
    for variant in variants:
        assert variant["requested"].items() <= variant["built"].items()
        assert variant["built"]["precision"] == variant["precision"] == variant["name"].rpartition("-")[2]
        assert variant["built"]["opset"] == (16 if variant["target"] == "tensorrt" else 17)
        assert all((targets_bundle / file).is_file() for files in variant["graphs"].values() for file in files)
        parity = variant["parity"]
        assert variant["target"] == "tensorrt" or parity["golden"]["passed"]


def test_fp16_keeps_borders_and_distance_in_fp32(targets_bundle: Path) -> None:
    for graph in ("tokenizer", "quantizer", "decoder", "encoder"):
        half, full = proto(targets_bundle, "onnx-fp16", graph), proto(targets_bundle, "onnx-fp32", graph)
        for mine, theirs in ((half.graph.input, full.graph.input), (half.graph.output, full.graph.output)):
            assert [(v.name, v.type.tensor_type.elem_type) for v in mine] == [
                (v.name, v.type.tensor_type.elem_type) for v in theirs
            ]
        types = {v.name: v.type.tensor_type.elem_type for v in half.graph.value_info}
        convolutions = [types[n.output[0]] for n in half.graph.node if n.op_type == "Conv"]
        assert set(convolutions) <= {TensorProto.FLOAT16}
        assert bool(convolutions) == (graph != "quantizer")
        halves = {t.name for t in half.graph.initializer if t.data_type == TensorProto.FLOAT16}
        assert not {name for name in halves if name.startswith(("books", "norms"))}
    tokenizer = proto(targets_bundle, "onnx-fp16", "tokenizer")
    types = {v.name: v.type.tensor_type.elem_type for v in [*tokenizer.graph.value_info, *tokenizer.graph.output]}
    distance = [n for n in tokenizer.graph.node if n.name.startswith("/quantizer/")]
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert {types[n.output[0]] for n in distance} & floats == {TensorProto.FLOAT}
    assert {n.op_type for n in distance} >= {"MatMul", "Sub", "ReduceMin", "ArgMin"}


def test_a_half_distance_fails_the_audit(targets_bundle: Path) -> None:
    graph = proto(targets_bundle, "onnx-fp16", "tokenizer")
    [product] = [n for n in graph.graph.node if n.op_type == "MatMul" and n.name.startswith("/quantizer/")]
    [value] = [v for v in graph.graph.value_info if v.name == product.output[0]]
    value.type.tensor_type.elem_type = TensorProto.FLOAT16
    with pytest.raises(AuditError, match="distance must stay fp32"):
        compute_types(graph)


@pytest.mark.parametrize("what", ["precision", "opset", "batch", "policy"])
def test_a_mismatch_fails_the_audit(what: str) -> None:
    facts: dict[str, Any] = {"precision": "fp16", "opset": 17, "ir_version": 8, "batch": "dynamic"}
    graphs = {name: ("x",) for name in ("encoder", "quantizer", "router", "tokenizer", "decoder")}
    request = Request("onnx", "fp16")
    assert audit(request, Built("onnxruntime", graphs, facts, {}), 17, "nn")["built"]["policy"] == "nn"
    if what == "policy":
        del graphs["router"]
    else:
        facts[what] = {"precision": "fp32", "opset": 18, "batch": 1}[what]
    with pytest.raises(AuditError, match=f"onnx-fp16: {what} is"):
        audit(request, Built("onnxruntime", graphs, facts, {}), 17, "router")


def test_a_target_that_builds_something_else_fails_and_keeps_nothing(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    original = onnx_target.write_graphs
    monkeypatch.setattr(onnx_target, "write_graphs", lambda *a, half, **k: original(*a, half=False, **k))
    with pytest.raises(AuditError, match="precision is 'fp32', requested 'fp16'"):
        export(small_checkpoint, bundle, requests=[Request("onnx", "fp16")])
    assert names(bundle) == ["onnx-fp32"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def test_variants_are_added_and_replaced(small_checkpoint: Path, small_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    before = Bundle(bundle).manifest.files
    result = export(small_checkpoint, bundle, requests=[Request("onnx", "fp16")], policy="router")
    assert result.kept == ("onnx-fp32",)
    assert names(bundle) == ["onnx-fp32", "onnx-fp16"]
    after = Bundle(bundle).manifest
    assert {name: entry for name, entry in after.files.items() if name in before} == before
    assert (after.name, after.policy) == (Bundle(small_bundle).manifest.name, "router")
    export(small_checkpoint, bundle, requests=[Request("onnx", "fp16"), Request("onnx", "fp32", batch=4)])
    assert names(bundle) == ["onnx-fp32", "onnx-fp32-b4", "onnx-fp16"]
    assert Bundle(bundle).manifest.policy == "router"
    with Codec.load(bundle) as codec:
        assert verify(codec).passed


def test_variants_of_another_model_go(small_checkpoint: Path, small_bundle: Path, tmp_path: Path) -> None:
    """Also when only the encoder changed: the model digest does not cover it."""
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    model = checkpoint.load(small_checkpoint)
    model.encoder.stem[0].weight.data *= 1.1
    checkpoint.save(model, tmp_path / "other")
    result = export(tmp_path / "other", bundle, requests=[Request("onnx", "fp16")])
    assert (result.kept, result.dropped) == ((), ("onnx-fp32",))
    assert "onnx-fp32" in result.summary()
    assert names(bundle) == ["onnx-fp16"]


def test_another_model_is_not_replaced_silently(small_checkpoint: Path, small_bundle: Path, tmp_path: Path) -> None:
    """A forgotten --weights or --codebooks, a refit bundle: packets that exist could never be decoded."""
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    before = (bundle / "manifest.json").read_bytes()
    old = Bundle(bundle).manifest.codec.digest.hex()[:8]
    command = [str(small_checkpoint), "-o", str(bundle), "--target", "onnx", "--codebooks", "int8"]
    refused = CliRunner().invoke(export_command, command)
    assert isinstance(refused.exception, ExportError)
    said = str(refused.exception)
    assert re.search(rf"holds the model {old}, this is [0-9a-f]{{8}}", said)
    assert said.endswith("give another -o, repeat the same --weights and --codebooks, or --replace")
    (bundle / "notes.txt").write_text("no bundle with this in it is whole, but it is still that model")
    with pytest.raises(ExportError, match="holds the model"):
        export(small_checkpoint, bundle, codebooks="int8")
    (bundle / "notes.txt").unlink()
    assert (bundle / "manifest.json").read_bytes() == before
    result = CliRunner().invoke(export_command, [*command, "--replace"])
    assert result.exit_code == 0, result.output
    assert Bundle(bundle).manifest.codec.digest.hex()[:8] != old
    export(small_checkpoint, bundle, codebooks="int8", requests=[Request("onnx", "fp16")])
    assert names(bundle) == ["onnx-fp32", "onnx-fp16"]


def test_no_bundle_is_written_into_another(small_checkpoint: Path, small_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    for out in (bundle / "new", bundle / "onnx-fp32" / "new", bundle / ".." / "bundle" / "new"):
        with pytest.raises(ExportError, match="lies inside the bundle"):
            export(small_checkpoint, out)
    Bundle(bundle).verify_files()


def test_a_network_that_fixes_the_batch_is_told_how_not_to() -> None:
    """As tracing len(x) does: the output's rows are a number, whatever comes in."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])]
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [4, 2])
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [shape])
    with pytest.raises(ExportError, match=r"fixes the batch .* x\.shape\[0\] or reshape\(-1, \.\.\.\)"):
        simplify(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))


def test_a_bundle_gets_the_real_name_of_its_folder(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "door").mkdir()
    monkeypatch.chdir(tmp_path / "door")
    export(small_checkpoint, Path())
    assert Bundle(tmp_path / "door").manifest.name == "door"


@pytest.mark.parametrize("options", [["--list", "--json"], ["--json", "--list"]])
def test_the_list_as_json_in_either_order(options: list[str]) -> None:
    assert [row["target"] for row in json.loads(CliRunner().invoke(export_command, options).output)]
    plain = CliRunner().invoke(export_command, options[:1] if options[0] == "--list" else options[1:])
    assert "write: " in plain.output


@pytest.mark.parametrize("target", ["onnx", "openvino", "tensorrt"])
def test_a_fixed_batch_runs_any_number(small_checkpoint: Path, tmp_path: Path, target: str) -> None:
    result = export(small_checkpoint, tmp_path / "bundle", requests=[Request(target, batch=3)])
    [(variant, _)] = result.variants
    assert variant.name == f"{target}-fp32-b3"
    assert variant.details["built"]["batch"] == 3
    if target == "tensorrt":
        return
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    with Codec.load(tmp_path / "bundle") as codec:
        assert codec.session("encoder").batch == 3
        packets = codec.encode_batch(images)
        assert packets == [codec.encode(image) for image in images]
        assert codec.decode_batch(packets).shape == (7, 32, 32, 3)


@pytest.mark.parametrize("opset", [13, 20])
def test_other_opsets(small_checkpoint: Path, tmp_path: Path, opset: int) -> None:
    result = export(small_checkpoint, tmp_path / "bundle", requests=[Request("onnx", opset=opset)])
    assert result.variants[0][0].details["built"]["opset"] == opset


def test_auto_takes_the_first_variant_that_can_run(targets_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle(targets_bundle)
    assert bundle.variant("auto").name == "onnx-fp32"
    monkeypatch.setattr("stcq.runtime.bundle.is_installed", lambda name: name == "tensorrt")
    assert bundle.variant("auto").name == "tensorrt-fp32"
    monkeypatch.setattr("stcq.runtime.bundle.is_installed", lambda name: False)
    assert bundle.variant("auto").name == "onnx-fp32"


def test_a_missing_library_is_named_with_its_extra(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = targets.TARGETS["openvino"]._replace(needs=("onnx", "not_there"))
    monkeypatch.setitem(targets.TARGETS, "openvino", absent)
    monkeypatch.setitem(targets.EXTRA, "not_there", "openvino")
    with pytest.raises(BackendMissing, match=r"not_there; run: pip install 'stcq\[openvino\]'"):
        export(small_checkpoint, tmp_path / "bundle", requests=[Request("openvino")])
    [row] = [row for row in targets.describe_targets() if row["target"] == "openvino"]
    assert (row["can_write"], row["fix"]) == (False, "pip install 'stcq[openvino]'")


def test_openvino_saves_what_was_asked_and_the_books_whole(targets_bundle: Path) -> None:
    ov = pytest.importorskip("openvino", reason="needs openvino")
    for precision, backbone in (("fp32", {"f32"}), ("fp16", {"f16"})):
        model = ov.Core().read_model(targets_bundle / f"openvino-{precision}" / "tokenizer.xml")
        kinds: dict[bool, set[str]] = {True: set(), False: set()}
        for node in model.get_ops():
            if node.get_type_name() == "Constant" and node.get_element_type().is_real() and node.data.size >= 1024:
                distance = node.get_friendly_name().startswith(("books", "norms"))
                kinds[distance].add(node.get_element_type().get_type_name())
        assert kinds[False] == backbone
        assert kinds[True] <= {"f32"}


def test_shared_books_are_stored_once(tmp_path: Path) -> None:
    """A published tokenizer's one book of thousands of codes would be stored T times otherwise."""
    torch.manual_seed(0)
    config = CodecConfig(
        tokens=4, codes=64, groups=2, dim=4, books="shared", image_size=32, backbone_options=SMALL_BACKBONE
    )
    model = CodecModel(config).eval()
    checkpoint.save(model, tmp_path / "checkpoint")
    export(tmp_path / "checkpoint", tmp_path / "bundle")
    bundle = Bundle(tmp_path / "bundle")
    assert bundle.codebooks.shape == (2, 4, 64, 4)
    assert bundle.manifest.files["codebooks.safetensors"].size < 2 * 64 * 4 * 4 + 200
    quantizer = proto(tmp_path / "bundle", "onnx-fp32", "quantizer")
    assert {tuple(t.dims) for t in quantizer.graph.initializer if t.name in ("books", "norms")} == {
        (1, 4, 128),
        (1, 1, 128),
    }


def test_weights_that_fp16_cannot_hold(small_checkpoint: Path, tmp_path: Path) -> None:
    model = checkpoint.load(small_checkpoint)
    model.decoder.head[0].weight.data[0, 0, 0, 0] = 1e5
    checkpoint.save(model, tmp_path / "checkpoint")
    with pytest.raises((ExportError, ParityError), match="fp16"):
        export(tmp_path / "checkpoint", tmp_path / "bundle", requests=[Request("onnx", "fp16")])


def test_requests_have_names() -> None:
    assert Request("onnx").name == "onnx-fp32"
    assert dataclasses.replace(Request("openvino", "fp16"), batch=8).name == "openvino-fp16-b8"
