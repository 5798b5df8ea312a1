"""Every published tokenizer through fit, export and every installed backend: the same codec everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers as tiny
from PIL import Image
from stcq.errors import BackendMissing
from stcq.export.export import export
from stcq.export.request import Request
from stcq.export.targets import missing_libraries
from stcq.models.cli import find
from stcq.models.importing import import_weights
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.verify import verify
from stcq.training.fit import fit_checkpoint
from stcq.training.options import BooksOptions, DataOptions

WANTED = {  # the rest of targets and precisions differs in nothing that a backbone has to do with
    "titok": ("onnx-fp32", "onnx-fp16", "openvino-fp32", "tensorrt-fp16"),
    "maskgit_vqgan": ("onnx-fp32", "openvino-fp32"),
    "taming_vqgan": ("onnx-fp32", "onnx-fp16"),
    "codeformer": ("onnx-fp32", "openvino-fp32"),
    "titok-pixels": ("onnx-fp32", "openvino-fp32"),
}


def requests(name: str) -> list[Request]:
    """The variants of a tokenizer that can be written here."""
    pairs = [variant.split("-") for variant in WANTED[name]]
    return [Request(target, precision) for target, precision in pairs if not missing_libraries(target)]


def conform(bundle: Path, payload: int) -> None:
    """Every variant whose backend is installed: the golden set, batches like single faces, packets across variants."""
    images = np.random.default_rng(1).integers(0, 256, (3, 40, 30, 3), np.uint8)
    tokens = []
    for variant in Bundle(bundle).manifest.variants:
        try:
            codec = Codec.load(bundle, variant=variant.name)
        except BackendMissing:
            continue
        with codec:
            report = verify(codec)
            assert report.passed, (variant.name, report.failures)
            packets = codec.encode_batch(list(images))
            assert packets == [codec.encode(image) for image in images]
            assert {len(packet) for packet in packets} == {payload + 9}
            decoded = codec.decode_batch(packets)
            assert decoded.shape == (3, 16, 16, 3)
            if "fp32" in variant.name:
                tokens.append(packets)
    assert tokens
    assert all(packets == tokens[0] for packets in tokens)


def imported(name: str, folder: Path) -> Path:
    weights = tiny.weights(name, folder / "w.safetensors")
    more = {} if name.startswith("titok") else {"image_size": 16}
    return import_weights(name.partition("-")[0], weights, folder / "checkpoint", settings=more).checkpoint


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_official_codebook(name: str, tmp_path: Path) -> None:
    bundle = export(imported(name, tmp_path), tmp_path / "bundle", requests=requests(name)).bundle
    conform(bundle, 3 if name.startswith("titok") else 8)
    with Codec.load(bundle) as codec:
        assert codec.info.M == 1
        assert find(str(bundle)).books == "shared"
        assert codec.bundle.codebooks.shape == (1, codec.info.T, codec.info.K, codec.info.d)


@pytest.mark.parametrize("name", ["maskgit_vqgan", "titok"])
@pytest.mark.parametrize("books", ["shared", "specific"])
def test_switchable_books(name: str, books: str, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (24, 20, 20, 3), np.uint8)):
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{number}.png")
    options = BooksOptions(passes=1, iterations=2, steps=5, batch=8)
    source = imported(name, tmp_path)
    sizes = {"groups": 3, "codes": 5, "books": books}
    data = DataOptions(workers=0)
    fitted = fit_checkpoint(source, [tmp_path / "faces"], tmp_path / "fitted", data=data, options=options, **sizes)
    config = json.loads((fitted / "config.json").read_text())["codec"]
    assert (config["groups"], config["codes"], config["books"]) == (3, 5, books)
    tokens = 6 if name == "titok" else 16
    conform(export(fitted, tmp_path / "bundle").bundle, -(-(2 + 3 * tokens) // 8))
    with Codec.load(tmp_path / "bundle", policy="router") as codec:
        assert codec.decode(codec.encode(np.zeros((16, 16, 3), np.uint8))).shape == (16, 16, 3)
