"""Codebook refit and codebook precision: another model, proven like an exported one."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from folders import contents
from safetensors import SafetensorError
from stcq.calibration.calibrate import calibrate
from stcq.calibration.gate import Limits
from stcq.calibration.lloyd import lookup, quantisation_error, refit_books
from stcq.calibration.rebook import how_to_make, refit, round_books, store
from stcq.calibration.targets import how_to_add
from stcq.errors import CalibrationError, WrongModel
from stcq.export.export import export
from stcq.export.request import Request
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.search import select
from stcq.runtime.verify import verify

LOOSE = Limits(ids_drop=9, psnr_drop=99, token_agreement=0, group_agreement=0)


def test_lloyd_steps_never_raise_the_error() -> None:
    rng = np.random.default_rng(0)
    books = rng.normal(size=(3, 4, 8, 2)).astype(np.float32)
    latents = (rng.normal(size=(300, 4, 2)) * 0.5 + 1).astype(np.float32)
    errors: list[float] = []
    moved = refit_books(latents, books, prior=0.01, progress=lambda step, error: errors.append(error))
    assert errors == sorted(errors, reverse=True)
    assert quantisation_error(latents, moved) < 0.5 * quantisation_error(latents, books)
    assert quantisation_error(latents, moved) <= errors[-1]


def test_a_codeword_goes_to_the_mean_of_its_latents_and_its_prior() -> None:
    books = np.array([0.0, 10.0], np.float32).reshape(1, 1, 2, 1)
    latents = np.array([1.0, 2.0, 3.0], np.float32).reshape(3, 1, 1)
    moved = refit_books(latents, books, prior=1.0, steps=1)
    assert moved.ravel().tolist() == [6 / 4, 10.0]


def test_shared_books_stay_shared() -> None:
    rng = np.random.default_rng(0)
    books = np.broadcast_to(rng.normal(size=(2, 1, 5, 3)).astype(np.float32), (2, 4, 5, 3))
    latents = rng.normal(size=(100, 4, 3)).astype(np.float32)
    moved = refit_books(latents, books, shared=True, steps=2, prior=0.5)
    assert all(np.array_equal(moved[:, 0], moved[:, token]) for token in range(4))
    assert quantisation_error(latents, moved) < quantisation_error(latents, books)


def test_refit_writes_another_proven_model(small: Path, portraits: Path, tmp_path: Path, face: np.ndarray) -> None:
    before = contents(small)
    result = refit(small, portraits, tmp_path / "new", limits=LOOSE)
    assert result.kept, result.refused
    assert contents(small) == before
    assert result.error < 0.99 * result.old_error
    assert result.digest != result.old_digest
    with Codec.load(tmp_path / "new") as new, Codec.load(small) as old:
        assert new.info.digest == result.digest
        assert verify(new).passed
        latents = old.latents(face)[None]
        group, indices = select(latents, new.bundle.codebooks)
        assert new.tokens(face)[0] == group[0]
        assert np.array_equal(new.tokens(face)[1], indices[0])
        assert np.array_equal(new.latents(face)[None], latents)
        with pytest.raises(WrongModel):
            new.decode(old.encode(face))
        assert new.bundle.manifest.provenance["rebooked"] == {"refit": portraits.name, "from": result.old_digest}


@pytest.fixture(scope="module")
def three(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small codec for three targets."""
    requests = [Request("onnx"), Request("openvino"), Request("tensorrt", "fp16")]
    return export(small_checkpoint, tmp_path_factory.mktemp("three") / "bundle", requests=requests).bundle


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_codebooks_in_fewer_bytes(three: Path, portraits: Path, tmp_path: Path, precision: str) -> None:
    result = store(three, portraits, tmp_path / "new", precision, limits=LOOSE)
    assert result.kept, result.refused
    assert result.size < result.old_size
    assert result.dropped == ("openvino-fp32",)
    books = Bundle(three).codebooks
    with Codec.load(tmp_path / "new") as new:
        assert np.array_equal(new.bundle.codebooks, round_books(books, precision))
        assert verify(new).passed
        assert [variant.name for variant in new.bundle.manifest.variants] == ["onnx-fp32", "tensorrt-fp16"]
    with pytest.raises(CalibrationError, match="another -o"):
        store(three, portraits, tmp_path / "new", precision)
    again = store(tmp_path / "new", portraits, tmp_path / "again", precision, limits=LOOSE)
    assert again.refused == ("the codebooks are stored so already",)
    assert not (tmp_path / "again").exists()


def test_what_was_left_out_is_made_anew_as_the_result_says(
    three: Path, small_checkpoint: Path, portraits: Path, tmp_path: Path
) -> None:
    """Rounded books can be had from the checkpoint; those of a refit cannot."""
    stored = store(three, portraits, tmp_path / "int8", "int8", limits=LOOSE)
    way = f"stcq-export CHECKPOINT -o {tmp_path / 'int8'} --target openvino --codebooks int8"
    assert f"left out: openvino-fp32; openvino: add it with: {way}" in stored.summary()
    added = export(small_checkpoint, tmp_path / "int8", codebooks="int8", requests=[Request("openvino")])
    assert added.kept == ("onnx-fp32", "tensorrt-fp16")
    refitted = refit(three, portraits, tmp_path / "refit", limits=LOOSE)
    assert "no checkpoint holds its codebooks, so none can be exported; take another --target" in refitted.summary()
    for target, fix in (("openvino", "take another --target"), ("tensorrt", "a bundle that has tensorrt-fp32")):
        with pytest.raises(CalibrationError, match=f"no {target}-fp32 variant .* no checkpoint holds .* {fix}"):
            calibrate(tmp_path / "refit", portraits, targets=(target,))
    again = store(tmp_path / "refit", portraits, tmp_path / "both", "fp16", limits=LOOSE)
    assert again.kept
    assert "no checkpoint holds" in how_to_add(Bundle(tmp_path / "both"), "openvino")
    names = ("onnx-int8", "openvino-int8", "tensorrt-int8", "entropy.safetensors")
    said = how_to_make(Bundle(tmp_path / "refit"), names)
    assert "--entropy-tables makes tables" in said
    assert "--target onnx --target tensorrt makes int8" in said


def test_the_new_bundle_is_not_written_into_another(small: Path, portraits: Path, tmp_path: Path) -> None:
    for out in (small / "new", small / "onnx-fp32" / "new", tmp_path / "x" / ".." / "small" / "new"):
        with pytest.raises(CalibrationError, match="lies inside the bundle"):
            store(small, portraits, out, "int8")
    Bundle(small).verify_files()


def test_a_full_disk_leaves_nothing(
    small: Path, portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors' own error, and an OSError of the graphs' files; what was written so far lay beside -o."""

    def full(tensors: object, path: Path) -> None:
        assert path.is_relative_to(tmp_path)
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def attached(proto: object, constants: object, store: Any, *_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name, failing in (("save_file", full), ("attach", attached)):
        with monkeypatch.context() as patch:
            patch.setattr(f"stcq.calibration.rebooked.{name}", failing)
            with pytest.raises(CalibrationError, match=f"no space is left in {tmp_path}, free some; nothing was left"):
                store(small, portraits, tmp_path / "new", "int8")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_the_gate_refuses_what_costs_too_much(small: Path, portraits: Path, tmp_path: Path) -> None:
    result = store(small, portraits, tmp_path / "new", "int8", limits=Limits(psnr_drop=-99))
    assert "PSNR drop" in result.refused[0]
    assert "refused" in result.summary()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small"]


def test_lookup_takes_each_tokens_codeword() -> None:
    books = np.arange(2 * 3 * 4 * 1, dtype=np.float32).reshape(2, 3, 4, 1)
    assert lookup(books, np.array([1], np.int32), np.array([[0, 3, 1]], np.int32)).ravel().tolist() == [12, 19, 21]
