"""Models rounded to fewer bytes before they are exported: exact from there on, smaller, and refused where it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from stcq.errors import ExportError
from stcq.export.export import export
from stcq.export.golden import golden_images
from stcq.export.request import Request
from stcq.export.rounding import rounded, rounding_loss
from stcq.export.section import section_of
from stcq.export.storage import exact_bytes, quantize_books, quantize_weight, stored_books
from stcq.models import checkpoint
from stcq.runtime.bundle import Bundle


def graph_of(bundle: Bundle, name: str) -> onnx.GraphProto:
    return onnx.load(bundle.graph(bundle.variant("onnx-fp32"), name)).graph


def test_int8_books_come_back_exactly() -> None:
    books = np.random.default_rng(0).normal(0, 3, (3, 5, 7, 4)).astype(np.float32)
    books[1, 2] = 0
    codes, scale = quantize_books(books)
    once = codes.astype(np.float32) * scale[:, :, None, None]
    assert np.abs(once - books).max() <= np.abs(books).max() / 127 / 2 * 1.01
    tensors = stored_books(once)
    assert tensors["codebooks"].dtype == np.int8
    assert np.array_equal(tensors["codebooks"].astype(np.float32) * tensors["scale"][:, :, None, None], once)
    assert stored_books(books)["codebooks"].dtype == np.float32


@pytest.mark.parametrize("axis", [0, -1])
def test_int8_weights_come_back_exactly(axis: int) -> None:
    rng = np.random.default_rng(0)
    weight = (rng.normal(size=(40, 30)) * 10.0 ** rng.uniform(-6, 1, (40, 1) if axis == 0 else 30)).astype(np.float32)
    weight[3 if axis == 0 else slice(None), slice(None) if axis == 0 else 3] = 0
    codes, scale = quantize_weight(weight, axis)
    once = codes * scale
    assert (np.abs(once - weight) <= 0.55 * scale).all()
    found = exact_bytes(once)
    assert found is not None
    assert np.array_equal(found[0] * found[1], once)
    assert exact_bytes(weight) is None


@pytest.mark.parametrize(("weights", "codebooks"), [("fp16", "fp16"), ("fp16", "int8"), ("int8", "int8")])
def test_a_rounded_model_is_exact_and_smaller(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path, weights: Any, codebooks: Any
) -> None:
    requests = [Request("onnx"), *([Request("openvino")] if codebooks == "int8" else [])]
    out = tmp_path / "bundle"
    result = export(small_checkpoint, out, requests=requests, weights=weights, codebooks=codebooks)
    assert result.rounding is not None
    assert 0.9 < result.rounding["token_agreement"] <= 1
    model = rounded(checkpoint.load(small_checkpoint), weights, codebooks)
    assert result.digest == section_of(model).digest.hex() != section_of(checkpoint.load(small_checkpoint)).digest.hex()
    stored = Bundle(out)
    assert np.array_equal(stored.codebooks, model.codebooks.full().detach().numpy())
    assert stored.codebooks.dtype == np.float32
    size = stored.manifest.files["codebooks.safetensors"].size
    assert size < Bundle(small_bundle).manifest.files["codebooks.safetensors"].size
    assert all(proof.reports["golden"].token_agreement == 1 for proof in result.proofs.values())
    if weights != "fp32":
        kinds = {t.data_type for t in graph_of(stored, "encoder").initializer if np.prod(t.dims) >= 1024}
        assert kinds == {TensorProto.FLOAT16}
    if weights == "int8":
        kept = [t for t in graph_of(stored, "decoder").initializer if np.prod(t.dims) >= 1024]
        assert {t.data_type for t in kept if "books" not in t.name} <= {TensorProto.INT8, TensorProto.FLOAT16}
        assert any(t.data_type == TensorProto.INT8 and len(t.dims) == 4 for t in kept)


def test_rounding_that_costs_too_much_is_refused(small_checkpoint: Path, tmp_path: Path) -> None:
    """Books that hold the golden pictures' own latents, and one huge number that leaves int8 no steps for them."""
    model = checkpoint.load(small_checkpoint)
    pixels = torch.from_numpy(golden_images(32)).float().permute(0, 3, 1, 2) / 255
    model.codebooks.weight.data[:] = model.encode(pixels)[:5].detach().transpose(0, 1)  # (T, K, d)
    model.codebooks.weight.data[:, :, 0, 0] = 1000.0
    checkpoint.save(model, tmp_path / "wide")
    with pytest.raises(ExportError, match="rounding costs"):
        export(tmp_path / "wide", tmp_path / "bundle", codebooks="int8")
    model.codebooks.weight.data[0, 0, 0, 0] = 1e6
    checkpoint.save(model, tmp_path / "wide")
    with pytest.raises(ExportError, match="more than fp16 can"):
        export(tmp_path / "wide", tmp_path / "bundle", codebooks="fp16")
    assert not (tmp_path / "bundle").exists()


def test_large_pictures_go_through_rounding_in_small_pieces(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = checkpoint.load(small_checkpoint), []
    monkeypatch.setattr("stcq.export.rounding.faces_at_once", lambda size: 3 if size == 32 else 0)
    monkeypatch.setattr(model, "encode", lambda images, encode=model.encode: seen.append(len(images)) or encode(images))
    rounding_loss(model, rounded(checkpoint.load(small_checkpoint), "fp16", "fp16"), golden_images(32))
    assert seen == [3, 3, 2]
