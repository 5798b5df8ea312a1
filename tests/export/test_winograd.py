"""Convolutions in Winograd's form: the same pictures, and only where they gain."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from stcq.export.cli import export
from stcq.export.winograd import INPUT_TRANSFORM, KERNEL_TRANSFORM, OUTPUT_TRANSFORM, to_winograd
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.runtime.codec import Codec

WIDTH = 64
PADDED = {"pads": [1, 1, 1, 1]}


def graph(nodes: list[Any], outputs: list[str], side: tuple[int, int] = (16, 20), kernel: int = 3) -> onnx.ModelProto:
    """Nodes over x (batch, 64, H, W), with kernels w0, w1 and biases."""
    rng = np.random.default_rng(0)
    constants = {f"w{i}": rng.standard_normal((WIDTH, WIDTH, kernel, kernel)) / (kernel * 8) for i in range(2)}
    constants |= {"bias": rng.standard_normal(WIDTH), "bias1": rng.standard_normal((1, WIDTH, 1, 1))}
    body = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH, *side])],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def run(model: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, {"x": x})]


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def conv(source: str, target: str, weight: str = "w0", **attributes: object) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight, "bias"], [target], target, **PADDED | attributes)


def relu(source: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [target], target)


def add(one: str, other: str, target: str) -> onnx.NodeProto:
    return helper.make_node("Add", [one, other], [target], target)


RESIDUAL = [conv("x", "a"), relu("a", "b"), conv("b", "c", "w1"), add("x", "c", "d"), relu("d", "y")]
CASES = {
    "one": ([conv("x", "y")], ["y"], 1),
    "residual": (RESIDUAL, ["y"], 2),
    "two residuals": ([*RESIDUAL, conv("y", "e"), relu("e", "f"), conv("f", "g"), add("g", "y", "h")], ["h"], 4),
    "outputs on the way": (RESIDUAL, ["c", "b", "y"], 2),
    "read by others": ([*RESIDUAL, helper.make_node("Sigmoid", ["b"], ["s"]), add("s", "y", "z")], ["z"], 2),
    "a sum over channels": ([conv("x", "a"), add("a", "bias1", "y")], ["y"], 1),
    "no bias": ([helper.make_node("Conv", ["x", "w0"], ["y"], "y", pads=[1] * 4)], ["y"], 1),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_same_numbers(name: str, batch: int) -> None:
    nodes, outputs, count = CASES[name]
    model = graph(nodes, outputs)
    written = to_winograd(model)
    assert kinds(model)["Conv"] == count
    assert kinds(written)["Conv"] == 0
    x = np.random.default_rng(2).standard_normal((batch, WIDTH, 16, 20)).astype(np.float32)
    for found, wanted in zip(run(written, x), run(model, x), strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-4)  # of numbers of 1: it adds and subtracts tenfold ones


def test_a_chain_takes_the_form_once() -> None:
    """One Gather to enter, one for each convolution, one to leave."""
    nodes, outputs, count = CASES["two residuals"]
    assert kinds(to_winograd(graph(nodes, outputs)))["Gather"] == count + 2


def test_the_matrices() -> None:
    """Three taps over six numbers, against the definition, exactly."""
    rng = np.random.default_rng(3)
    x, w = rng.integers(-9, 9, 6), rng.integers(-9, 9, 3)
    found = np.array(OUTPUT_TRANSFORM) @ ((KERNEL_TRANSFORM @ w) * (np.array(INPUT_TRANSFORM) @ x))
    assert found == pytest.approx([x[i : i + 3] @ w for i in range(4)])


@pytest.mark.parametrize(
    ("node", "side", "kernel"),
    [
        (conv("x", "y", strides=[2, 2]), (16, 16), 3),
        (conv("x", "y", dilations=[2, 2]), (16, 16), 3),
        (conv("x", "y", pads=[0, 0, 0, 0]), (16, 16), 3),
        (conv("x", "y", pads=[1, 1, 0, 0]), (16, 16), 3),
        (helper.make_node("Conv", ["x", "w0", "bias"], ["y"], "y", auto_pad="SAME_UPPER"), (16, 16), 3),
        (conv("x", "y", pads=[2, 2, 2, 2]), (16, 16), 5),
        (conv("x", "y", pads=[0, 0, 0, 0]), (16, 16), 1),
        (conv("x", "y"), (8, 8), 3),
        (conv("x", "y"), (18, 16), 3),
        (conv("x", "y"), (128, 128), 3),
    ],
)
def test_others_stay(node: onnx.NodeProto, side: tuple[int, int], kernel: int) -> None:
    model = graph([node], ["y"], side, kernel)
    assert to_winograd(model) is model


def test_an_exported_bundle(tmp_path: Path) -> None:
    """A real encoder and decoder: plain graphs on request and for int8, the same packets and pictures."""
    options = {"encoder_widths": [64, 64, 64], "decoder_widths": [64, 64, 64], "encoder_mixers": 1}
    torch.manual_seed(0)
    model = CodecModel(CodecConfig(tokens=16, codes=16, groups=2, dim=4, image_size=64, backbone_options=options))
    for module in model.modules():  # as training leaves them: residual blocks that do something
        if isinstance(module, torch.nn.BatchNorm2d) and module.affine:
            torch.nn.init.uniform_(module.weight, 0.5, 1)
    checkpoint.save(model.eval(), tmp_path / "checkpoint")
    bundles = {}
    for flag in ("--winograd", "--no-winograd"):
        bundles[flag] = tmp_path / flag
        command = [str(tmp_path / "checkpoint"), "-o", str(bundles[flag]), "--target", "onnx", flag]
        result = CliRunner().invoke(export, command)
        assert result.exit_code == 0, result.output
    fast, plain = (
        {graph.stem: kinds(onnx.load(graph))["Conv"] for graph in (bundle / "onnx-fp32").glob("*.onnx")}
        for bundle in bundles.values()
    )
    assert fast["tokenizer"] < plain["tokenizer"]
    assert fast["decoder"] < plain["decoder"]
    assert fast["encoder"] == plain["encoder"] == plain["tokenizer"]
    images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
    with Codec.load(bundles["--winograd"]) as one, Codec.load(bundles["--no-winograd"]) as other:
        packets = one.encode_batch(images)
        assert packets == other.encode_batch(images)
        assert np.abs(one.decode_batch(packets).astype(int) - other.decode_batch(packets)).max() <= 1
