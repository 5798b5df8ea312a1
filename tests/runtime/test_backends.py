"""The conformance suite: every installed backend keeps the contract of runtime/backends/base.py."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import BackendError, BackendMissing
from stcq.runtime.backends import MODULES, open_backend
from stcq.runtime.backends.base import Backend, Session, SessionOptions
from stcq.runtime.bundle import Bundle

INSTALLED = [name for name, (_, library) in MODULES.items() if importlib.util.find_spec(library)]


@pytest.fixture(params=INSTALLED)
def backend(request: pytest.FixtureRequest) -> Backend:
    return open_backend(request.param)


@pytest.fixture
def graphs(backend: Backend, small_bundle: Path) -> dict[str, Path]:
    bundle = Bundle(small_bundle)
    variant = next(v for v in bundle.manifest.variants if v.backend == backend.name)
    return {name: bundle.graph(variant, name) for name in variant.graphs}


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


def test_the_librarys_failures_become_backend_errors(decoder: Session) -> None:
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
