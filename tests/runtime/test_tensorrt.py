"""TensorRT without a GPU: the recorded signatures of four releases, and a stand-in that keeps to them.

tests/helpers/tensorrt_signatures.json was recorded from the Python packages of TensorRT 8.5.3, 8.6.1, 10.3.0, 11.4.0.
The stand-in has exactly the names recorded, checks numbers of arguments, and computes with ONNX Runtime in host memory,
so that the whole backend runs, cache and self-test included. What only a GPU can show (whether these releases read the
graphs, the types they choose, speed) has never been run.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorrt_stand_in as stand_ins
from stcq.errors import BackendError, BackendMissing, BundleError
from stcq.runtime import graphs
from stcq.runtime.backends import tensorrt_versions
from stcq.runtime.backends.base import SessionOptions
from stcq.runtime.backends.tensorrt_recipe import Recipe
from stcq.runtime.backends.tensorrt_session import TensorRtBackend
from stcq.runtime.build import build
from stcq.runtime.codec import Codec
from stcq.runtime.files import UNZIPPED
from stcq.runtime.verify import verify

RELEASES = list(stand_ins.SIGNATURES)
PRECISIONS = ("fp32", "fp16")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STCQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture(params=RELEASES)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in of a release, in the place of the backend."""
    module = stand_ins.stand_in(request.param)
    install(module, monkeypatch)
    return module


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = stand_ins.stand_in("11.4.0")
    install(module, monkeypatch)
    return module


def install(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module.cuda = stand_ins.StandInCuda()
    backend = TensorRtBackend(module, lambda: module.cuda)
    original = graphs.open_backend
    monkeypatch.setattr(graphs, "open_backend", lambda name: backend if name == "tensorrt" else original(name))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_codec_runs_over_named_tensors(trt: Any, cache: Path, targets_bundle: Path, precision: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (37, 32, 32, 3), np.uint8)
    with Codec.load(targets_bundle, variant=f"tensorrt-{precision}") as codec, Codec.load(targets_bundle) as first:
        assert verify(codec).passed
        packets = codec.encode_batch(images)
        assert packets[:3] == [codec.encode(image) for image in images[:3]]
        if precision == "fp32":
            assert packets == first.encode_batch(images)
        difference = np.abs(codec.decode_batch(packets).astype(int) - first.decode_batch(packets))
        assert (difference <= 2).mean() >= 0.999
        session = codec.session("decoder")
        assert session.most_rows == 32
        with pytest.raises(BackendError, match="33 rows are more than the engine's 32"):
            session.run({"group": np.zeros(33, np.int32), "indices": np.zeros((33, 8), np.int32)})
        session.close()
        with pytest.raises(BackendError, match="closed"):
            session.run({"group": np.zeros(1, np.int32), "indices": np.zeros((1, 8), np.int32)})
    assert not trt.cuda.memory  # all given back


def test_precision_is_pinned_where_the_builder_may_choose(trt: Any, cache: Path, targets_bundle: Path) -> None:
    graph = targets_bundle / "tensorrt" / "fp16" / "tokenizer.onnx"
    TensorRtBackend(trt, lambda: trt.cuda).open(graph, SessionOptions()).close()
    [(network, config)] = trt.built
    assert "TF32" in config._cleared
    pinned = {layer.name for layer in network._layers if getattr(layer, "_pinned", None) is trt.DataType.FLOAT}
    if int(trt.__version__.split(".")[0]) >= 10:
        assert config._flags == set()
        assert network._flags == 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        assert not pinned
    else:
        assert config._flags == {"FP16", "OBEY_PRECISION_CONSTRAINTS"}
        assert network._flags == 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
        assert {name for name in pinned if name.startswith("/quantizer/")} >= {"/quantizer/MatMul", "/quantizer/Sub"}
        assert not {name for name in pinned if "/network/" in name and name.endswith("Conv")}


def test_an_engine_of_the_wrong_precision_is_refused(trt: Any, cache: Path, targets_bundle: Path) -> None:
    """Asked for fp16, got fp32, silently: the complaint of other toolkits' users."""
    trt.moods.add("PretendFp32")
    with (
        Codec.load(targets_bundle, variant="tensorrt-fp16") as codec,
        pytest.raises(BackendError, match=r"encoder.onnx: asked for fp16, TensorRT built \['fp32'\]"),
    ):
        codec.session("encoder")
    assert not list(cache.glob("*.engine"))


def test_engines_of_a_zipped_bundle_are_kept_too(
    newest: Any, cache: Path, targets_bundle: Path, tmp_path: Path
) -> None:
    """Each opening of a zip has the graphs in another temporary folder."""
    backend, found = TensorRtBackend(newest, lambda: newest.cuda), []
    for number in range(3):
        folder = shutil.copytree(targets_bundle / "tensorrt", tmp_path / f"{UNZIPPED}{number}" / "tensorrt")
        with backend.open(folder / "fp32" / "decoder.onnx", SessionOptions()) as session:
            found.append(session.facts["cached"])
    assert found == [False, True, True]
    assert len(list(cache.glob("decoder-*.engine"))) == 1


def test_engines_are_kept_and_built_again_when_stale(
    newest: Any, cache: Path, targets_bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = shutil.copytree(targets_bundle, tmp_path / "bundle")
    folder = bundle / "tensorrt" / "fp32"
    backend = TensorRtBackend(newest, lambda: newest.cuda)
    caplog.set_level(logging.WARNING, "stcq")

    def opened() -> bool:
        """Whether the engine came out of the cache."""
        caplog.clear()
        with backend.open(folder / "decoder.onnx", SessionOptions()) as session:
            return bool(session.facts["cached"])

    assert [opened(), opened()] == [False, True]
    assert not caplog.messages
    assert cache.stat().st_mode & 0o777 == 0o700
    [engine] = cache.glob("decoder-*.engine")
    assert json.loads(engine.read_bytes())  # pristine: the facts are in the sidecar
    [timing] = cache.glob("timing-*.cache")
    before = timing.read_bytes()
    changes = {
        "TensorRT changed from 11.4.0 to 11.5.0": lambda: setattr(newest, "__version__", "11.5.0"),
        "CUDA changed from 12.6 to 13.0": lambda: setattr(
            newest.cuda, "device", newest.cuda.device._replace(cuda="13.0")
        ),
        "the GPU changed from Orin 8.7 to Thor 8.7": lambda: setattr(
            newest.cuda, "device", newest.cuda.device._replace(name="Thor")
        ),
        "the graph changed": lambda: (folder / "decoder.bin").write_bytes(
            (folder / "decoder.bin").read_bytes() + b"\0"
        ),
        "the shapes changed": lambda: (folder / "recipe.json").write_text(
            (folder / "recipe.json").read_text().replace("32,\n", "16,\n")
        ),
    }
    for sentence, change in changes.items():
        change()
        assert opened() is False
        assert caplog.messages == [f"{sentence}: building the engine of decoder again"]
        assert opened() is True
    assert len(list(cache.glob("decoder-*.engine"))) == 1
    engine.write_bytes(b"{}")
    assert opened() is False
    assert caplog.messages == [f"the cached engine {engine.name} is damaged: building it again"]
    for broken in ("", "[]", "{"):
        engine.with_suffix(".json").write_text(broken)
        assert opened() is False
        assert "damaged" in caplog.messages[0]
    assert timing.read_bytes() == before  # another GPU's measurements went elsewhere
    assert len(list(cache.glob("timing-*.cache"))) == 4


def test_a_cache_that_others_may_write_to_is_refused(newest: Any, cache: Path, targets_bundle: Path) -> None:
    cache.mkdir(parents=True)
    cache.chmod(0o777)
    with Codec.load(targets_bundle, variant="tensorrt-fp32") as codec, pytest.raises(BackendError, match="chmod 700"):
        codec.session("decoder")


def test_failures_are_one_line(
    newest: Any, cache: Path, targets_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(targets_bundle / "tensorrt" / "fp32", tmp_path / "fp32")
    backend = TensorRtBackend(newest, lambda: newest.cuda)
    newest.refuse = True
    with pytest.raises(BackendError, match=r"cannot build decoder.onnx: no tactic found$"):
        backend.open(folder / "decoder.onnx", SessionOptions())
    newest.refuse = False
    newest.moods.add("CannotLoad")
    with pytest.raises(BackendError, match="cannot load the engine"):
        backend.open(folder / "decoder.onnx", SessionOptions())
    (folder / "decoder.onnx").write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"cannot read decoder.onnx: this is no ONNX$"):
        backend.open(folder / "decoder.onnx", SessionOptions())
    with pytest.raises(BackendError, match=r"missing.onnx"):
        backend.open(folder / "missing.onnx", SessionOptions())
    for text in ("", "[]", '{"format": 2}', '{"format": 1}'):
        (folder / "recipe.json").write_text(text)
        with pytest.raises(BackendError, match=r"recipe\.json"):
            backend.open(folder / "encoder.onnx", SessionOptions())
    assert not newest.cuda.memory


def test_older_releases_are_refused() -> None:
    class Old:
        __version__ = "8.4.1"

    with pytest.raises(BackendError, match=r"8\.4\.1 is too old"):
        tensorrt_versions.version_of(Old)


def test_build_command(newest: Any, cache: Path, targets_bundle: Path, small_bundle: Path) -> None:
    results = build(targets_bundle, "tensorrt")
    assert [result["variant"] for result in results] == ["tensorrt-fp32", "tensorrt-fp16"]
    for result in results:
        assert set(result["engines"]) == {"encoder", "quantizer", "router", "tokenizer", "decoder"}
        assert result["verify"]["passed"]
        assert not any(engine["cached"] for engine in result["engines"].values())
    [again] = build(targets_bundle, "tensorrt", "tensorrt-fp16")
    assert all(engine["cached"] for engine in again["engines"].values())
    assert again["engines"]["quantizer"]["types"] == ["fp32"]
    assert "fp16" in again["engines"]["decoder"]["types"]
    with pytest.raises(BundleError, match="--target tensorrt"):
        build(small_bundle, "tensorrt")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="TensorRT is installed")
def test_without_tensorrt_the_fix_is_named(targets_bundle: Path) -> None:
    with pytest.raises(BackendMissing, match="tensorrt is not installed; run: sudo apt-get"):
        Codec.load(targets_bundle, variant="tensorrt-fp32")


def compute(document: Any) -> set[str]:
    return tensorrt_versions.compute_types(json.dumps(document))


@pytest.mark.parametrize("release", RELEASES)
def test_engine_information_of_every_release(release: str) -> None:
    glued = {"Layers": [{"Inputs": [{"Format/Datatype": "Two wide channel FP16 format"}]}, {"Outputs": []}]}
    split = {"Layers": [{"Outputs": [{"Format": "Row major linear", "DataType": "Half"}]}], "I/O Tensors": []}
    assert compute(split if release.startswith("11") else glued) == {"fp16"}
    int8 = {"Layers": [{"Outputs": [{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]}]}
    assert compute(int8) == {"int8"}
    assert compute({"Layers": ["only a name"]}) == set()


# -- the static check --------------------------------------------------------------------------------------------


def test_the_recipe_survives_a_round_trip(tmp_path: Path, targets_bundle: Path) -> None:
    path = targets_bundle / "tensorrt" / "fp16" / "recipe.json"
    recipe = Recipe.load(path)
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    assert recipe.types == {
        **{"encoder": "fp16", "tokenizer": "fp16", "decoder": "fp16"},
        **{"quantizer": "fp32", "router": "fp32"},
    }
    assert "--maxShapes=group:32,indices:32x8" in recipe.trtexec("decoder")
