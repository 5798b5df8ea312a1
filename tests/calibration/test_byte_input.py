"""int8 encoders that begin with the picture's bytes, against the same ones that quantise a float picture."""

from __future__ import annotations

from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from stcq.calibration.byte_input import PLANES, find_normalised
from stcq.calibration.floating import load_float
from stcq.calibration.onnx_int8 import FORMS, quantise
from stcq.calibration.ranges import find_ranges
from stcq.runtime.bundle import EMBEDDED

TRANSFORM = ["/network/transform/Gemm"]


@pytest.fixture(scope="module")
def encoder() -> onnx.ModelProto:
    return load_float(EMBEDDED / "onnx-fp32" / "encoder.onnx")


def quantised(proto: onnx.ModelProto, faces: np.ndarray, form: str = "u8s7") -> onnx.ModelProto:
    return quantise(proto, find_ranges(proto, [faces]), FORMS[form], TRANSFORM)


def latents(proto: onnx.ModelProto, faces: np.ndarray) -> np.ndarray:
    return ort.InferenceSession(proto.SerializeToString()).run(None, {"image": faces})[0]


def reads_bytes(proto: onnx.ModelProto) -> bool:
    return any(PLANES in node.output for node in proto.graph.node)


def test_it_is_as_close_as_with_a_float_picture(encoder: onnx.ModelProto, face: np.ndarray) -> None:
    faces = np.stack([face, face[:, ::-1], face // 2, np.roll(face, 5, 0), np.roll(face, 3, 1) // 3 * 2])
    new = quantised(encoder, faces)
    with mock.patch("stcq.calibration.onnx_int8.find_normalised", return_value=None):
        usual = quantised(encoder, faces)
    assert reads_bytes(new)
    assert not reads_bytes(usual)
    plain = latents(encoder, faces)
    error, usual_error = (float(np.square(latents(graph, faces) - plain).mean()) for graph in (new, usual))
    assert 0 < error < 1.5 * usual_error < 0.02 * plain.var()


def test_no_float_picture_is_left_but_for_the_average(encoder: onnx.ModelProto, face: np.ndarray) -> None:
    graph = quantised(encoder, face[None]).graph
    readers = [node for node in graph.node if PLANES in node.input]
    assert sorted(node.op_type for node in readers) == ["Cast", "DequantizeLinear"]
    [cast] = [node for node in readers if node.op_type == "Cast"]
    assert [node.op_type for node in graph.node if cast.output[0] in node.input] == ["AveragePool"]
    read = {name for node in graph.node for name in node.input}
    assert all(tensor.name in read for tensor in graph.initializer)


def test_a_grey_picture_is_exact_in_the_middle() -> None:
    """One convolution with weights of 1 / 127 and its bias: what the shift adds, the bias takes back."""
    channels = np.full((1, 3, 3, 3), 1 / 127, np.float32)
    head = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (uint8[b, 8, 8, 3] image) => (float[b, 1, 8, 8] latents)
        <float two = {2.0}, float byte = {255.0}, float one = {1.0}> {
            floats = Cast<to = 1>(image)
            planes = Transpose<perm = [0, 3, 1, 2]>(floats)
            parts = Div(planes, byte)
            doubled = Mul(parts, two)
            centred = Sub(doubled, one)
            latents = Conv<pads = [1, 1, 1, 1]>(centred, weight, bias)
        }"""
    )
    head.graph.node[-1].name = "/network/stem/Conv"
    head.graph.initializer.extend(
        [
            onnx.numpy_helper.from_array(channels, "weight"),
            onnx.numpy_helper.from_array(np.zeros(1, np.float32), "bias"),
        ]
    )
    grey = np.full((1, 8, 8, 3), 120, np.uint8)  # near the middle, so that the result's steps are small
    graph = quantise(head, find_ranges(head, [grey, 255 - grey]), FORMS["u8s8"])
    assert reads_bytes(graph)
    step = 2 * 27 * (2 * 135 / 255 - 1) / 127 / 255  # of the result's own quantiser, 8 times less than the shift
    assert np.abs(latents(graph, grey) - latents(head, grey))[0, 0, 1:-1, 1:-1].max() <= step


@pytest.mark.parametrize("what", ["each channel its own", "another form", "float stem"])
def test_other_heads_stay(encoder: onnx.ModelProto, face: np.ndarray, what: str) -> None:
    proto = onnx.ModelProto.FromString(encoder.SerializeToString())
    normalised = find_normalised(proto)
    assert normalised is not None
    assert normalised.zero == 128
    if what == "each channel its own":  # as other tokenizers scale pictures
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((3, 1, 1), 2, np.float32), "each"))
        next(node for node in proto.graph.node if normalised.results[-2] in node.output).input[1] = "each"
        assert find_normalised(proto) is None
    ranges = find_ranges(proto, [face[None]])
    floating = [*TRANSFORM, "/network/stem/stem.0/Conv"] if what == "float stem" else TRANSFORM
    graph = quantise(proto, ranges, FORMS["s8s8" if what == "another form" else "u8s7"], floating)
    assert not reads_bytes(graph)
    assert np.isfinite(latents(graph, face[None])).all()
