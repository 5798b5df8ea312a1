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
from stcq.errors import BackendError, TrainingError
from stcq.evaluation import recognizer as evaluation
from stcq.training.losses import ReconstructionLoss
from stcq.training.options import LossOptions
from stcq.training.recognizer import Recognizer, open_recognizers
from stcq.training.recognizer_operators import OPERATORS

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
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("r.onnx", "missing.onnx", "missing.onnx:arcface", "empty.onnx"):
        with pytest.raises(TrainingError, match="no ONNX recogniser"):
            Recognizer(tmp_path / name, PLAIN)
        with pytest.raises(BackendError, match="no ONNX recogniser"):
            evaluation.Recognizer.load(tmp_path / name)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 112, 112]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Sin", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), tmp_path / "sin.onnx")
    with pytest.raises(TrainingError, match=r"\['Sin'\] are not supported"):
        Recognizer(tmp_path / "sin.onnx", PLAIN)


def change(network: Path, out: Path, kind: str, opset: int = 17, **attributes: object) -> Path:
    """The network with other attributes of its first node of a kind; Clip's settings become attributes."""
    model = onnx.load(network)
    node = next(node for node in model.graph.node if node.op_type == kind)
    kept = {a.name: helper.get_attribute_value(a) for a in node.attribute} | attributes
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(n, v) for n, v in kept.items() if v is not None)
    if kind == "Clip":
        del node.input[1:]
    model.opset_import[0].version = opset
    onnx.save(model, out)
    return out


@pytest.mark.parametrize(
    ("kind", "opset", "attributes"),
    [
        ("Gemm", 17, {"alpha": 0.5, "beta": 3.0}),
        ("Clip", 9, {"min": 0.3, "max": 0.6}),
        ("Clip", 9, {"max": 0.6}),
        ("Clip", 17, {}),
    ],
)
def test_ways_to_use_an_operator(network: Path, tmp_path: Path, kind: str, opset: int, attributes: dict) -> None:
    path = change(network, tmp_path / "changed.onnx", kind, opset, **attributes)
    images = torch.rand(2, 3, 112, 112)
    embeddings = Recognizer(path, PLAIN)(images)[0]
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for image, embedding in zip(images, embeddings, strict=True):
        wanted = session.run(None, {"x": (image[None].numpy() - 0.5) / 0.5})[0][0]
        assert np.allclose(embedding.numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("pads", [[0, 0, 8, 8], [3, 3, 5, 5], [4, 8, 4, 0]])
def test_pads_may_differ_on_the_sides(tmp_path: Path, pads: list[int]) -> None:
    weight = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32) * 0.1
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"], strides=[8, 8], pads=pads)]
    nodes.append(helper.make_node("Flatten", ["a"], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 112, 112])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 225])
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(weight, "w")])
    path = tmp_path / "r.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    image = torch.rand(1, 3, 112, 112)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    wanted = session.run(None, {"x": (image.numpy() - 0.5) / 0.5})[0]
    assert np.allclose(Recognizer(path, PLAIN)(image)[0].numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "attributes", "message"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER", "pads": None}, "Conv with auto_pad SAME_UPPER is not supported"),
        ("Gemm", {"transA": 1}, "Gemm with transA 1 is not supported"),
        ("Flatten", {"axis": 2}, "Flatten with axis 2 is not supported"),
    ],
)
def test_unusual_ways_to_use_an_operator_are_refused(
    network: Path, tmp_path: Path, kind: str, attributes: dict, message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        Recognizer(change(network, tmp_path / "changed.onnx", kind, **attributes), PLAIN)
    valid = change(network, tmp_path / "valid.onnx", "Conv", auto_pad="VALID", pads=None, strides=[3, 3])
    first = Recognizer(valid, PLAIN).nodes[0]
    assert first[0](torch.rand(1, 3, 9, 9), torch.rand(6, 3, 3, 3), **first[3]).shape == (1, 6, 3, 3)


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


def byte_network(network: Path, out: Path) -> Path:
    """The same network as one that takes RGB of 0 to 255 and normalises by itself, as OpenCV's SFace does."""
    model = onnx.load(network)
    for name, value in (("taken", 127.5), ("scale", 1 / 127.5)):
        model.graph.initializer.append(numpy_helper.from_array(np.float32([value]), name))
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))  # as old exporters do
    nodes = [helper.make_node("Sub", ["x", "taken"], ["x0"]), helper.make_node("Mul", ["x0", "scale"], ["x1"])]
    model.graph.node[0].input[0] = "x1"
    for number, node in enumerate(nodes):
        model.graph.node.insert(number, node)
    onnx.save(model, out)
    return out


def test_a_network_that_normalizes_by_itself_gets_bytes(network: Path, tmp_path: Path) -> None:
    """In the loss and in measurements; one that does not gets what its name says."""
    by_itself = byte_network(network, tmp_path / "bytes.onnx")
    images = (torch.rand(2, 3, 112, 112) * 255).round() / 255
    wanted = Recognizer(network, PLAIN)(images)[0]
    torch.testing.assert_close(Recognizer(by_itself, LossOptions())(images)[0], wanted, atol=1e-5, rtol=1e-4)
    pixels = (images * 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
    by_name = network.with_name(f"{network.name}:arcface")
    torch.testing.assert_close(Recognizer(by_name, LossOptions())(images)[0], wanted)
    for path in (by_name, by_itself):
        judge = evaluation.Recognizer.load(path)
        for picture, embedding in zip(pixels, F.normalize(wanted), strict=True):
            assert np.allclose(judge.embed(picture), embedding.numpy(), atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_batch_norms_behind_convolutions_are_folded_into_them(network: Path, tmp_path: Path, shared: bool) -> None:
    """Unless something else reads what the convolution gives, too."""
    model = onnx.load(network)
    convolution, _, norm, depthwise, *rest = model.graph.node
    norm.input[0], depthwise.input[0] = "a", "b"
    after = helper.make_node("Add", ["c", "a"], ["b"]) if shared else helper.make_node("PRelu", ["c", "slope"], ["b"])
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in (convolution, norm, after, depthwise, *rest)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, tmp_path / "ordered.onnx")
    images = torch.rand(2, 3, 112, 112)
    recognizer = Recognizer(tmp_path / "ordered.onnx", PLAIN)
    session = ort.InferenceSession(tmp_path / "ordered.onnx", providers=["CPUExecutionProvider"])
    for image, embedding in zip(images, recognizer(images)[0], strict=True):
        wanted = session.run(None, {"x": (image[None].numpy() - 0.5) / 0.5})[0][0]
        assert np.allclose(embedding.numpy(), wanted, atol=1e-4)
    kept = [operator for operator, *_ in recognizer.nodes if operator is OPERATORS["BatchNormalization"]]
    assert len(kept) == shared


@pytest.mark.parametrize("shape", [(3, 6, 5, 4), (3, 6)])
def test_the_gradient_of_prelu_is_torchs(shape: tuple[int, ...]) -> None:
    images, slope = torch.randn(shape), torch.rand(6, 1, 1)
    asked, plain = images.clone().requires_grad_(), images.clone().requires_grad_()
    found, wanted = OPERATORS["PRelu"](asked, slope), F.prelu(plain, slope.flatten())
    torch.testing.assert_close(found, wanted)
    for result in (found, wanted):
        result.pow(3).sum().backward()
    torch.testing.assert_close(asked.grad, plain.grad)


def test_several_recognizers_count_as_their_mean(network: Path, tmp_path: Path) -> None:
    other = byte_network(network, tmp_path / "bytes.onnx")
    model = onnx.load(other)
    [last] = [tensor for tensor in model.graph.initializer if tensor.name == "w3"]
    last.CopyFrom(numpy_helper.from_array(np.random.default_rng(1).standard_normal((4, 294)).astype(np.float32), "w3"))
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name == "b3"]
    bias.CopyFrom(numpy_helper.from_array(np.zeros(4, np.float32), "b3"))
    onnx.save(model, other)
    images, decoded, weights = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64), torch.ones(3, 1, 64, 64)
    parts = [
        ReconstructionLoss(PLAIN, open_recognizers(paths, PLAIN))(decoded, images, weights)[1]
        for paths in ([network], [other], [network, other])
    ]
    for name in ("identity", "features"):
        one, two, both = (part[name].item() for part in parts)
        assert both == pytest.approx((one + two) / 2, rel=1e-4)
    assert parts[1]["identity"] > 2 * parts[0]["identity"]
    assert open_recognizers([], PLAIN) is None
