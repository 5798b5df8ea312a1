"""The reference model on photographs that are not part of the project (skipped where they are not at hand)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from stcq.evaluation.quality import crops, measure
from stcq.evaluation.recognizer import Recognizer
from stcq.export.golden import reference
from stcq.export.rounding import BookType, WeightType, rounded
from stcq.export.section import section_of
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.runtime.codec import Codec
from stcq.runtime.sources import open_source
from stcq.runtime.verify import verify

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "checkpoints" / "face-65"


@pytest.fixture(scope="module")
def faces(shared: Path) -> np.ndarray:
    """200 faces of the validation set, centre 128 x 128 of 160 x 160."""
    return np.stack(list(crops(open_source(shared / "faces" / "lfw160-val.zip"), 128, 0.8, 200)))


@pytest.fixture(scope="module")
def exact() -> Codec:
    """The embedded bundle's float graphs; "auto" may open int8."""
    return Codec.load(variant="onnx-fp32")


@pytest.fixture(scope="module")
def model() -> CodecModel:
    return rounded(checkpoint.load(CHECKPOINT), "int8", "int8")  # as the embedded bundle was exported


@pytest.mark.parametrize(("name", "weights", "books"), [("face-65", "int8", "int8"), ("face-129", "fp16", "fp32")])
def test_checkpoints_are_the_bundles(name: str, weights: WeightType, books: BookType) -> None:
    model = rounded(checkpoint.load(ROOT / "checkpoints" / name), weights, books)
    assert section_of(model).digest.hex() == Codec.load(ROOT / "bundles" / name).info.digest


def test_tokens_and_pictures_equal_torchs(model: CodecModel, exact: Codec, faces: np.ndarray) -> None:
    expected = reference(model, section_of(model), faces)
    report = verify(exact, expected)
    print(report)
    assert report.passed
    assert report.token_agreement >= 0.995
    assert report.group_agreement >= 0.995
    assert report.pixel_share >= 0.999
    packets = [row.tobytes() for row in expected["packets"]]
    assert np.mean([a == b for a, b in zip(exact.encode_batch(faces), packets, strict=True)]) >= 0.99


def test_faces_stay_recognisable(codec: Codec, faces: np.ndarray, shared: Path) -> None:
    quality = measure(codec, faces, Recognizer.load(shared / "models" / "mobilefacenet.onnx"))
    print(quality)
    assert quality.payload_bytes <= 66
    assert quality.ids.value >= 0.55
    assert quality.psnr.value >= 21.5


def test_torch_measures_the_same_psnr(model: CodecModel, exact: Codec, faces: np.ndarray) -> None:
    images = torch.from_numpy(faces[:32]).float().permute(0, 3, 1, 2) / 255
    decoded = model.reconstruct(*model.tokens(images))
    mine = exact.decode_batch(exact.encode_batch(faces[:32]))
    assert (np.abs(decoded.numpy().astype(int) - mine) <= 1).mean() >= 0.999
