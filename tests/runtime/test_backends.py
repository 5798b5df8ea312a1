"""The conformance suite: every installed backend keeps the contract of runtime/backends/base.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import BackendError, BackendMissing
from stcq.export.request import PRECISIONS
from stcq.runtime.backends import MODULES, is_installed, open_backend
from stcq.runtime.backends.base import Arrays, Backend, Session, SessionOptions, TensorSpec
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.verify import verify

INSTALLED = [(name, precision) for name in MODULES if is_installed(name) for precision in PRECISIONS]


@pytest.fixture(params=INSTALLED, ids="-".join)
def kind(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Backend and precision."""
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture
def backend(kind: tuple[str, str]) -> Backend:
    return open_backend(kind[0])


@pytest.fixture
def graphs(kind: tuple[str, str], targets_bundle: Path) -> dict[str, Path]:
    bundle = Bundle(targets_bundle)
    variant = next(v for v in bundle.manifest.variants if (v.backend, v.precision) == kind)
    return {name: bundle.graph(variant, name) for name in variant.graphs}


def variant_of(kind: tuple[str, str]) -> str:
    return f"{'onnx' if kind[0] == 'onnxruntime' else kind[0]}-{kind[1]}"


@pytest.fixture
def decoder(backend: Backend, graphs: dict[str, Path]) -> Iterator[Session]:
    with backend.open(graphs["decoder"], SessionOptions(threads=1)) as session:
        yield session


def feeds(batch: int) -> dict[str, np.ndarray]:
    return {
        "group": np.arange(batch, dtype=np.int32) % 3,
        "indices": np.arange(batch * 8, dtype=np.int32).reshape(-1, 8) % 5,
    }


def test_specs_name_every_tensor(backend: Backend, graphs: dict[str, Path]) -> None:
    expected = {
        "encoder": ({"image": (np.uint8, (None, 32, 32, 3))}, {"latents": (np.float32, (None, 8, 3))}),
        "quantizer": (
            {"latents": (np.float32, (None, 8, 3))},
            {"group": (np.int32, (None,)), "indices": (np.int32, (None, 8))},
        ),
        "router": ({"latents": (np.float32, (None, 8, 3))}, {"scores": (np.float32, (None, 3))}),
        "tokenizer": (
            {"image": (np.uint8, (None, 32, 32, 3))},
            {"group": (np.int32, (None,)), "indices": (np.int32, (None, 8))},
        ),
        "decoder": (
            {"group": (np.int32, (None,)), "indices": (np.int32, (None, 8))},
            {"image": (np.uint8, (None, 32, 32, 3))},
        ),
    }
    assert set(graphs) == set(expected)
    for name, (inputs, outputs) in expected.items():
        with backend.open(graphs[name], SessionOptions()) as session:
            assert {n: (s.dtype, s.shape) for n, s in session.inputs.items()} == inputs
            found = {n: (s.dtype, len(s.shape)) for n, s in session.outputs.items()}
            assert found == {n: (dtype, len(shape)) for n, (dtype, shape) in outputs.items()}


@pytest.mark.parametrize("batch", [1, 3, 8, 17])
def test_batches_are_the_same_as_one_by_one(decoder: Session, batch: int) -> None:
    together = decoder.run(feeds(batch))["image"]
    assert together.shape == (batch, 32, 32, 3)
    assert together.dtype == np.uint8
    for i in range(batch):
        single = decoder.run({name: array[i : i + 1] for name, array in feeds(batch).items()})["image"]
        assert np.abs(single[0].astype(int) - together[i]).max() <= 1


@pytest.mark.parametrize("batch", [1, 3, 8, 17])
def test_batches_give_the_same_packets_as_one_by_one(kind: tuple[str, str], targets_bundle: Path, batch: int) -> None:
    images = np.random.default_rng(batch).integers(0, 256, (batch, 32, 32, 3), np.uint8)
    with Codec.load(targets_bundle, variant=variant_of(kind)) as codec:
        packets = codec.encode_batch(images)
        assert packets == [codec.encode(image) for image in images]
        together, single = codec.decode_batch(packets), [codec.decode(packet) for packet in packets]
    assert np.abs(together.astype(int) - np.stack(single)).max() <= 1


def test_pictures_may_be_views_of_others(kind: tuple[str, str], targets_bundle: Path) -> None:
    """Every second pixel, a part, mirrored, channels turned round, columns first, not writable: as copies."""
    large = np.random.default_rng(7).integers(0, 256, (64, 64, 3), np.uint8)
    part = large[:32, :32]
    views = [large[::2, ::2], large[16:48, 16:48], part[:, ::-1], part[..., ::-1], np.asfortranarray(part)]
    views += [np.broadcast_to(large[:1, :32], (32, 32, 3))]
    with Codec.load(targets_bundle, variant=variant_of(kind)) as codec:
        copies = [np.array(view, order="C") for view in views]
        latents = np.stack([codec.latents(copy) for copy in copies])
        np.testing.assert_array_equal(np.stack([codec.latents(view) for view in views]), latents)
        assert len(np.unique(latents, axis=0)) == len(views)
        assert codec.encode_batch(views) == [codec.encode(copy) for copy in copies]


def test_arrays_may_be_views_of_others(decoder: Session) -> None:
    expected = decoder.run(feeds(6))["image"]
    spaced = {name: np.repeat(array, 2, axis=0)[::2] for name, array in feeds(6).items()}
    assert not spaced["indices"].flags.c_contiguous
    np.testing.assert_array_equal(decoder.run(spaced)["image"], expected)


def test_every_packet_decodes_alike_on_every_backend(kind: tuple[str, str], targets_bundle: Path) -> None:
    images = np.random.default_rng(5).integers(0, 256, (20, 32, 32, 3), np.uint8)
    with Codec.load(targets_bundle, variant=variant_of(kind)) as codec, Codec.load(targets_bundle) as first:
        packets = codec.encode_batch(images)
        difference = np.abs(codec.decode_batch(packets).astype(int) - first.decode_batch(packets))
    assert (difference <= 2).mean() >= 0.999


def test_verify_passes(kind: tuple[str, str], targets_bundle: Path) -> None:
    with Codec.load(targets_bundle, variant=variant_of(kind)) as codec:
        report = verify(codec)
    assert report.passed
    assert report.router_difference is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": np.zeros(1, np.int32)}, "inputs are"),
        (feeds(1) | {"extra": np.zeros(1)}, "inputs are"),
        (feeds(1) | {"group": np.zeros(1, np.int64)}, "int64"),
        (feeds(1) | {"indices": np.zeros((1, 9), np.int32)}, r"\(1, 9\)"),
        (feeds(1) | {"indices": np.zeros(8, np.int32)}, r"\(8,\)"),
    ],
)
def test_wrong_inputs_are_named(decoder: Session, wrong: dict, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        decoder.run(wrong)


def test_the_librarys_failures_become_backend_errors(decoder: Session, backend: Backend) -> None:
    if backend.name != "onnxruntime":
        pytest.skip("only ONNX Runtime checks indices; packets are checked before any backend sees them")
    with pytest.raises(BackendError) as caught:
        decoder.run({"group": np.array([10_000], np.int32), "indices": np.zeros((1, 8), np.int32)})
    assert "\n" not in str(caught.value)


def test_a_closed_session_says_so(backend: Backend, graphs: dict[str, Path]) -> None:
    session = backend.open(graphs["decoder"], SessionOptions())
    session.close()
    session.close()
    with pytest.raises(BackendError, match="closed"):
        session.run(feeds(1))


def test_no_graph(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "decoder.onnx").write_bytes(b"no graph")
    for name in ("decoder.onnx", "missing.onnx"):
        with pytest.raises(BackendError, match=name):
            backend.open(tmp_path / name, SessionOptions())


def test_unknown_and_missing_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="unknown"):
        open_backend("abacus")
    monkeypatch.setitem(MODULES, "onnxruntime", ("not_there", "stcq"))
    with pytest.raises(BackendMissing, match="pip install onnxruntime"):
        open_backend("onnxruntime")


def test_the_device_may_choose_the_precision_but_not_that_of_the_distance(targets_bundle: Path) -> None:
    pytest.importorskip("openvino", reason="needs openvino")
    with Codec.load(targets_bundle, variant="openvino-fp32") as exact:
        assert exact.precision == "f32"
    with Codec.load(targets_bundle, variant="openvino-fp32", precision="auto") as free:
        assert free.precision in ("f32", "bf16", "f16")
        assert free.session("quantizer").precision == "f32"
        assert len(free.encode(np.zeros((32, 32, 3), np.uint8))) == free.info.payload_bytes + 9


class Doubler(Session):
    """A graph with a fixed batch, or a largest one, that counts its runs."""

    def __init__(self, batch: int | None, most_rows: int | None) -> None:
        self.inputs = {"x": TensorSpec(np.dtype(np.int32), (batch, 2))}
        self.outputs = {"y": TensorSpec(np.dtype(np.int32), (batch, 2))}
        self.most_rows = most_rows
        self.runs: list[int] = []

    def _run(self, feeds: Mapping[str, np.ndarray]) -> Arrays:
        self.runs.append(len(feeds["x"]))
        return {"y": feeds["x"] * 2}

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("batch", "most", "rows", "runs"),
    [
        (None, None, 7, [7]),
        (None, 3, 7, [3, 3, 1]),
        (None, 8, 7, [7]),
        (4, None, 7, [4, 4]),
        (4, None, 4, [4]),
        (4, None, 1, [4]),
    ],
)
def test_any_number_of_rows_runs(batch: int | None, most: int | None, rows: int, runs: list[int]) -> None:
    session = Doubler(batch, most)
    x = np.arange(rows * 2, dtype=np.int32).reshape(rows, 2)
    assert np.array_equal(session.run_rows({"x": x})["y"], x * 2)
    assert session.runs == runs


SIGNALLED = """
import signal, sys
from pathlib import Path
from stcq.runtime.backends import open_backend
from stcq.runtime.backends.base import SessionOptions
heard = []
signal.signal(signal.SIGUSR1, lambda *about: heard.append(about))
graphs = sorted(Path(sys.argv[1]).glob("*.xml"))
for _ in range(3):
    sessions = [open_backend("openvino").open(graph, SessionOptions(1)) for graph in graphs]
    while sessions:
        sessions.pop(0).close()  # the first one first
    signal.raise_signal(signal.SIGUSR1)
assert len(heard) == 3
"""


def test_signals_reach_python_after_openvino_sessions(targets_bundle: Path) -> None:
    """The stack for signals that OpenVINO's CPU plugin sets must not be a freed one."""
    pytest.importorskip("openvino")
    folder = targets_bundle / "openvino-fp32"
    done = subprocess.run([sys.executable, "-c", SIGNALLED, folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
