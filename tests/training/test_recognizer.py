"""The recogniser loss runs an ONNX file in torch exactly as ONNX Runtime does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from stcq.errors import TrainingError
from stcq.training.losses import ReconstructionLoss
from stcq.training.options import LossOptions
from stcq.training.recognizer import OPERATORS, Recognizer

PLAIN = LossOptions(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Conv + PRelu + BatchNorm + depthwise Conv + Clip + Gemm, like an ArcFace network in small; batch 1."""
    rng = np.random.default_rng(0)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.abs(rng.standard_normal(shape)).astype(np.float32) * 0.2, name)

    conv = {"strides": [4, 4], "pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["a"], **conv),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node("BatchNormalization", ["b", "s", "b1", "m", "v"], ["c"], epsilon=1e-3),
        helper.make_node("Conv", ["c", "w2"], ["d"], group=6, **conv),
        helper.make_node("Clip", ["d", "low", "high"], ["e"]),
        helper.make_node("Add", ["e", "e"], ["f"]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "w3", "b3"], ["y"], transB=1),
    ]
    constants = [
        constant("w1", 6, 3, 3, 3),
        constant("w2", 6, 1, 3, 3),
        constant("slope", 6, 1, 1),
        constant("w3", 5, 294),
    ]
    constants += [constant(name, 6) for name in ("b1", "s", "m", "v")] + [constant("b3", 5)]
    constants += [numpy_helper.from_array(np.float32(v), n) for n, v in (("low", 0.0), ("high", 0.9))]
    graph = helper.make_graph(
        nodes,
        "recognizer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "r.onnx")
    return tmp_path / "r.onnx"


@pytest.mark.parametrize("size", [56, 57])
def test_strided_depthwise_convolutions_are_the_plain_ones(size: int) -> None:
    """On a CPU they go another way where a gradient is wanted."""
    images, weights, bias = torch.rand(2, 6, size, size), torch.randn(6, 1, 3, 3), torch.randn(6)
    asked, plain = images.clone().requires_grad_(), images.clone().requires_grad_()
    found = OPERATORS["Conv"](asked, weights, bias, strides=[2, 2], pads=[1, 1, 1, 1], group=6)
    wanted = F.conv2d(plain, weights, bias, 2, 1, groups=6)
    torch.testing.assert_close(found, wanted)
    for result in (found, wanted):
        result.square().sum().backward()
    torch.testing.assert_close(asked.grad, plain.grad)


def test_it_computes_what_onnxruntime_computes(network: Path) -> None:
    images = torch.rand(3, 3, 112, 112)
    embeddings, features = Recognizer(network, PLAIN)(images)
    session = ort.InferenceSession(network, providers=["CPUExecutionProvider"])
    for image, embedding in zip(images, embeddings, strict=True):
        wanted = session.run(None, {"x": (image[None].numpy() - 0.5) / 0.5})[0][0]
        assert np.allclose(embedding.numpy(), wanted, atol=1e-4)
    assert [f.shape for f in features] == [(3, 6, 28, 28), (3, 6, 7, 7)]


def test_the_loss_is_zero_for_equal_pictures_and_has_gradients(network: Path) -> None:
    loss = ReconstructionLoss(PLAIN, Recognizer(network, PLAIN))
    images, weights = torch.rand(4, 3, 64, 64), torch.ones(4, 1, 64, 64)
    total, parts = loss(images, images, weights)
    assert total.item() == pytest.approx(0, abs=1e-5)
    assert parts.keys() == {"l1", "mse", "identity", "features", "loss"}
    decoded = torch.rand(4, 3, 64, 64, requires_grad=True)
    loss(decoded, images, weights)[0].backward()
    assert decoded.grad.abs().sum() > 0


def test_pixels_without_weight_do_not_count() -> None:
    loss = ReconstructionLoss(LossOptions(), None)
    images, weights = torch.rand(2, 3, 8, 8), torch.ones(2, 1, 8, 8)
    weights[:, :, :4] = 0
    decoded = images.clone()
    decoded[:, :, :4] = 0
    assert loss(decoded, images, weights)[0].item() == 0


def test_unusable_recognizers(tmp_path: Path) -> None:
    (tmp_path / "r.onnx").write_bytes(b"nothing")
    for name in ("r.onnx", "missing.onnx"):
        with pytest.raises(TrainingError, match="no ONNX recogniser"):
            Recognizer(tmp_path / name, PLAIN)
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", [], [])
    onnx.save(helper.make_model(graph), tmp_path / "sin.onnx")
    with pytest.raises(TrainingError, match=r"\['Sin'\] are not supported"):
        Recognizer(tmp_path / "sin.onnx", PLAIN)


def test_the_real_recognizer(shared: Path) -> None:
    path = shared / "models" / "mobilefacenet.onnx"
    images = torch.rand(2, 3, 112, 112)
    embeddings, features = Recognizer(path, LossOptions())(images)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    mean, std = (np.array(v, np.float32)[:, None, None] for v in (LossOptions().mean, LossOptions().std))
    for image, embedding in zip(images, embeddings, strict=True):
        wanted = session.run(None, {"input": (image[None].numpy() - mean) / std})[0][0]
        assert np.allclose(embedding.numpy(), wanted, atol=1e-3)
    assert [f.shape[2] for f in features] == [28, 14, 7]
