"""`stcq calibrate` on real graphs: what passes enters the bundle, what does not leaves it as it was."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from folders import contents
from stcq.calibration.calibrate import Calibrated, calibrate
from stcq.calibration.floating import layers_of, load_float
from stcq.calibration.gate import Limits
from stcq.calibration.onnx_int8 import form_for
from stcq.calibration.ranges import find_ranges
from stcq.errors import CalibrationError
from stcq.export.export import export
from stcq.export.request import Request
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.machine import machine
from stcq.runtime.verify import verify

ANY_SPEED = Limits(speed=0.0, psnr_drop=9.0)  # tests assert no times, and 16 pictures say little of the PSNR
LOOSE = Limits(speed=0.0, token_agreement=0.0, group_agreement=0.0, psnr_drop=9.0)
STCQ = [sys.executable, "-c", "from stcq.cli import run; run()"]


@pytest.fixture(scope="module")
def calibrated(portraits: Path, tmp_path_factory: pytest.TempPathFactory, codec: Codec) -> Calibrated:
    """The embedded bundle, calibrated with whatever this machine's CPU needs."""
    bundle = shutil.copytree(codec.bundle.path, tmp_path_factory.mktemp("calibrated") / "bundle")
    return calibrate(bundle, portraits, limits=ANY_SPEED, keep_float=("network/transform",))


def test_the_int8_encoder_is_close_and_proven(calibrated: Calibrated) -> None:
    assert calibrated.kept == ("onnx-int8",)
    [candidate] = calibrated.candidates
    assert candidate.floating == ("/network/transform/Gemm",)
    assert 0 < candidate.scores.latents < 0.1
    assert candidate.scores.token_agreement > 0.85
    assert candidate.scores.ids is None
    assert candidate.speed is not None
    with Codec.load(calibrated.bundle, variant="onnx-int8") as codec:
        assert verify(codec).passed
        assert codec.info.variant == "onnx-int8"
        assert "identity not" in calibrated.summary()


def test_every_variant_decodes_to_the_same_picture(calibrated: Calibrated, face: np.ndarray) -> None:
    with Codec.load(calibrated.bundle, variant="onnx-int8") as quick, Codec.load() as plain:
        packet = quick.encode(face)
        assert quick.info.digest == plain.info.digest
        assert np.array_equal(quick.decode(packet), plain.decode(packet))
        assert quick.encode_batch([face] * 3) == [packet] * 3
        with Codec.load(calibrated.bundle, variant="onnx-int8", policy="router") as routed:
            assert len(routed.encode(face)) == len(packet)


def test_weights_are_int8_per_channel_and_the_distance_is_float(calibrated: Calibrated) -> None:
    with Codec.load(calibrated.bundle, variant="onnx-int8") as codec:
        paths = {name: codec.bundle.path / files[0] for name, files in codec.variant.graphs.items()}
        assert "tokenizer" not in paths
        sibling = codec.bundle.variant("onnx-fp32")
        assert {name: codec.variant.graphs[name] for name in ("quantizer", "router", "decoder")} == {
            name: sibling.graphs[name] for name in ("quantizer", "router", "decoder")
        }
        graph = onnx.load(paths["encoder"]).graph
    weights = [
        tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) == 4
    ]
    scales = {tensor.name: tensor for tensor in graph.initializer if tensor.name.endswith("_scale")}
    float_layers = layers_of(load_float(codec.bundle.file("onnx-fp32/encoder.onnx")))
    assert len(weights) == sum("Conv" in name.rsplit("/", 1)[-1] for name in float_layers)
    for tensor in weights:
        scale = scales[tensor.name.removesuffix("_quantized") + "_scale"]
        assert list(scale.dims) == [tensor.dims[0]]
        assert np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max() <= 127
    zeros = [onnx.numpy_helper.to_array(t) for t in graph.initializer if "weight_zero_point" in t.name]
    assert zeros
    assert not any(value.any() for value in zeros)


def test_the_record_says_what_was_judged(calibrated: Calibrated) -> None:
    manifest = json.loads((calibrated.bundle / "manifest.json").read_text())
    record = manifest["provenance"]["calibration"]
    assert (record["faces"], record["held_out_faces"]) == (64, 16)
    [one] = record["candidates"]
    assert one["scores"]["token_agreement"] == calibrated.candidates[0].scores.token_agreement
    variant = next(v for v in manifest["variants"] if v["name"] == "onnx-int8")
    assert variant["precision"] == variant["built"]["precision"] == "int8"
    assert variant["calibration"]["form"] == form_for(machine()["cpu_features"])
    assert set(manifest["provenance"]["measured"]["encode_ms"]) == {"onnx-fp32", "onnx-int8"}
    assert sum(entry["size"] for entry in manifest["files"].values()) <= 25e6


def test_calibrating_again_gives_the_same_graph(portraits: Path, small: Path) -> None:
    first = calibrate(small, portraits, limits=LOOSE)
    graph = (small / "onnx-int8" / "encoder.onnx").read_bytes()
    again = calibrate(small, portraits, limits=LOOSE)
    assert again.candidates[0].scores == first.candidates[0].scores
    assert (small / "onnx-int8" / "encoder.onnx").read_bytes() == graph
    assert [variant.name for variant in Bundle(small).manifest.variants] == ["onnx-fp32", "onnx-int8"]


def test_noise_is_refused(embedded: Path, noise: Path) -> None:
    before = contents(embedded)
    with pytest.raises(CalibrationError, match="not like faces"):
        calibrate(embedded, noise, limits=ANY_SPEED)
    assert contents(embedded) == before


def test_noise_that_covers_the_ranges_fails_on_the_golden_faces(
    embedded: Path, noise: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held-out noise agrees with calibration on noise; the bundle's own photographs do not."""
    monkeypatch.setattr("stcq.calibration.ranges.MOST_CLIPPED", 99.0)
    result = calibrate(embedded, noise, limits=LOOSE, budget=0)
    assert not result.kept
    assert "golden faces" in result.candidates[0].refused[0]


def test_what_is_not_faster_or_not_close_is_refused(small: Path, portraits: Path) -> None:
    before = contents(small)
    slow = calibrate(small, portraits, limits=dataclasses.replace(LOOSE, speed=1000.0))
    assert "not faster" in slow.candidates[0].refused[0]
    far = calibrate(small, portraits, limits=Limits(token_agreement=1.01, speed=0.0), budget=0)
    assert "token agreement" in far.candidates[0].refused[0]
    assert "refused: token agreement" in far.summary()
    assert contents(small) == before


def test_mixed_precision_keeps_the_worst_layers_in_float(small: Path, portraits: Path) -> None:
    """A limit between plain int8 and one float layer less: the search finds the smallest set that passes."""
    plain = calibrate(shutil.copytree(small, small.parent / "plain"), portraits, limits=LOOSE)
    scores = plain.candidates[0].scores
    assert scores.group_agreement is not None
    asked = (1 + min(scores.token_agreement, scores.group_agreement)) / 2
    limits = dataclasses.replace(LOOSE, token_agreement=asked, group_agreement=asked)
    mixed = calibrate(small, portraits, limits=limits)
    assert mixed.kept == ("onnx-int8",)
    ranking = mixed.ranking["onnx-int8"]
    assert [effect.latents for effect in ranking] == sorted((effect.latents for effect in ranking), reverse=True)
    winner = next(c for c in mixed.candidates if not c.refused)
    assert winner.floating == tuple(effect.layer for effect in ranking[: len(winner.floating)])
    fewer = [c for c in mixed.candidates if len(c.floating) == len(winner.floating) - 1]
    assert all(c.refused for c in fewer)
    assert len(fewer) == 1
    proto = onnx.load(small / "onnx-int8" / "encoder.onnx")
    producers = {name: node.op_type for node in proto.graph.node for name in node.output}
    weights = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.name in winner.floating:
            assert node.input[1] in weights
        elif node.op_type == "Conv":
            assert producers[node.input[1]] == "DequantizeLinear"
    with Codec.load(small, variant="onnx-int8") as codec:
        assert verify(codec).passed


def test_calibration_holds_one_batch_at_a_time(small: Path) -> None:
    """And what the library keeps of each is a pair of numbers: the ranges are merged batch by batch."""
    alive: list[weakref.ref[np.ndarray]] = []

    def batches() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(30):
            images = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
            alive.append(weakref.ref(images))
            yield images
            del images
            assert sum(reference() is not None for reference in alive) <= 1

    proto = load_float(small / "onnx-fp32" / "encoder.onnx")
    ranges = find_ranges(proto, batches())
    whole = find_ranges(proto, [np.random.default_rng(0).integers(0, 256, (240, 32, 32, 3), np.uint8)])
    assert len(alive) == 30
    for name, data in whole.items():
        assert np.allclose(data.range_value, ranges[name].range_value, atol=1e-4)


def test_layers_to_keep_float_must_be_there(small: Path, portraits: Path) -> None:
    with pytest.raises(CalibrationError, match=r"no layer's name holds 'nothing'; the layers are: /network/"):
        calibrate(small, portraits, keep_float=("nothing",))


def test_no_budget_is_no_search(small: Path, portraits: Path) -> None:
    result = calibrate(small, portraits, limits=Limits(token_agreement=1.01, speed=0.0), budget=0)
    assert len(result.candidates) == 1
    assert result.ranking == {}


def test_openvino_and_tensorrt(small_checkpoint: Path, portraits: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    bundle = tmp_path / "targets"
    export(small_checkpoint, bundle, requests=[Request(name) for name in ("onnx", "openvino", "tensorrt")])
    result = calibrate(bundle, portraits, targets=("onnx", "openvino", "tensorrt"), limits=LOOSE)
    assert result.kept == ("onnx-int8", "openvino-int8", "tensorrt-int8")
    names = [variant.name for variant in Bundle(bundle).manifest.variants]
    assert names == ["onnx-fp32", "onnx-int8", "openvino-fp32", "openvino-int8", "tensorrt-fp32", "tensorrt-int8"]
    with Codec.load(bundle, variant="openvino-int8") as codec:
        assert verify(codec).passed
    engine = Bundle(bundle).variant("tensorrt-int8")
    assert engine.details["read_by"] == ["8.5", "8.6", "10"]
    graph = onnx.load(bundle / "tensorrt/int8/encoder.onnx").graph
    zeros = [onnx.numpy_helper.to_array(t) for t in graph.initializer if "zero_point" in t.name]
    assert zeros
    assert all(not value.any() and value.dtype == np.int8 for value in zeros)
    assert json.loads((bundle / "tensorrt/int8/recipe.json").read_text())["types"] == {"encoder": "int8"}
    export(small_checkpoint, bundle, requests=[Request("onnx")])  # the int8 variant reads its sibling's files
    assert [variant.name for variant in Bundle(bundle).manifest.variants][:2] == ["onnx-fp32", "openvino-fp32"]


def test_the_command(small: Path, portraits: Path) -> None:
    command = [*STCQ, "calibrate", small, "--images", portraits]
    refused = subprocess.run(
        [*command, "--min-token-agreement", "1.01", "--budget", "0"], capture_output=True, check=False
    )
    assert refused.returncode == 12
    assert b"refused: token agreement" in refused.stdout
    assert b"nothing passed" in refused.stderr
    wrong = subprocess.run([*command, "--refit-codebooks"], capture_output=True, check=False)
    assert wrong.returncode == 2
    assert b"need -o" in wrong.stderr
