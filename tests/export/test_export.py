"""Export: the graphs compute what torch computes, and a failed export changes nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from stcq.errors import CheckpointError, ExportError, ParityError
from stcq.export import onnx_target
from stcq.export.export import export
from stcq.export.section import section_of
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.runtime.codec import Codec
from stcq.runtime.verify import verify


def test_packets_and_pictures_equal_torchs(small_checkpoint: Path, small_bundle: Path) -> None:
    model = checkpoint.load(small_checkpoint)
    images = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), np.uint8)
    group, indices = model.tokens(torch.from_numpy(images).float().permute(0, 3, 1, 2) / 255)
    with Codec.load(small_bundle) as codec:
        packets = codec.encode_batch(images)
        decoded = codec.decode_batch(packets)
    assert packets == section_of(model).packets.pack(group.numpy(), indices.numpy())
    difference = np.abs(decoded.astype(int) - model.reconstruct(group, indices).numpy())
    assert (difference <= 1).mean() >= 0.999


def test_the_graphs_are_what_the_manifest_says(small_bundle: Path) -> None:
    manifest = json.loads((small_bundle / "manifest.json").read_text())
    [variant] = manifest["variants"]
    assert (variant["name"], variant["precision"]) == ("onnx-fp32", "fp32")
    assert variant["built"] == {"precision": "fp32", "opset": 17, "ir_version": 8, "batch": "dynamic", "policy": "nn"}
    assert variant["requested"].items() <= variant["built"].items()
    assert variant["parity"]["golden"]["passed"]
    for path, *weights in variant["graphs"].values():
        graph = onnx.load(small_bundle / path)
        assert all((small_bundle / file).is_file() for file in weights)
        onnx.checker.check_model(graph, full_check=True)
        assert graph.ir_version == 8
        assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        assert "BatchNormalization" not in {node.op_type for node in graph.graph.node}


def test_equal_constants_are_stored_once(small_bundle: Path) -> None:
    """Tokenizer and encoder share the encoder; tokenizer, quantizer and decoder share the books."""
    graphs = json.loads((small_bundle / "manifest.json").read_text())["variants"][0]["graphs"]
    assert [Path(file).name for file in graphs["tokenizer"]] == ["tokenizer.onnx", "encoder.bin", "quantizer.bin"]
    assert [Path(file).name for file in graphs["decoder"]] == ["decoder.onnx", "decoder.bin", "quantizer.bin"]
    places: dict[str, set[tuple[str, ...]]] = {}
    for path in (small_bundle / "onnx-fp32").glob("*.onnx"):
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            if tensor.external_data:
                facts = {entry.key: entry.value for entry in tensor.external_data}
                places.setdefault(path.stem, set()).add((facts["location"], facts["offset"], facts["length"]))
    assert places["encoder"] <= places["tokenizer"]


def test_large_codebooks_are_stored_once(tmp_path: Path) -> None:
    options = {"encoder_widths": [8, 8, 8], "decoder_widths": [8, 8, 8]}
    model = CodecModel(CodecConfig(tokens=4, codes=64, groups=8, dim=4, image_size=32, backbone_options=options)).eval()
    files = onnx_target.write_graphs(model, tmp_path)
    assert files["tokenizer"] == ("tokenizer.onnx", "encoder.bin", "quantizer.bin")
    assert files["decoder"] == ("decoder.onnx", "decoder.bin", "quantizer.bin")
    assert files["router"] == ("router.onnx", "router.bin")
    books = model.codebooks.weight.numel() * 4
    norms = books // 4
    assert books + norms <= (tmp_path / "quantizer.bin").stat().st_size <= books + norms + 4096


@pytest.mark.parametrize(
    ("tokens", "codes", "groups", "books"),
    [(1, 1, 1, "specific"), (1, 7, 2, "specific"), (1, 3, 1, "shared"), (2, 2, 5, "shared")],
)
def test_degenerate_codecs(tmp_path: Path, tokens: int, codes: int, groups: int, books: str) -> None:
    options = {"encoder_widths": [8, 8, 8], "decoder_widths": [8, 8, 8], "decoder_mixers": 1}
    config = CodecConfig(
        tokens=tokens, codes=codes, groups=groups, dim=2, books=books, image_size=16, backbone_options=options
    )
    model = CodecModel(config).eval()
    checkpoint.save(model, tmp_path / "checkpoint")
    bundle = export(tmp_path / "checkpoint", tmp_path / "bundle").bundle
    with Codec.load(bundle) as codec:
        packet = codec.encode(np.zeros((16, 16, 3), np.uint8))
        assert len(packet) == 9 + -(-((groups - 1).bit_length() + tokens * (codes - 1).bit_length()) // 8)
        assert codec.decode(packet).shape == (16, 16, 3)


def test_a_graph_that_disagrees_fails_the_export(
    small_checkpoint: Path, small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sabotage each part after the golden set was made; the old bundle stays."""
    old = shutil.copytree(small_bundle, tmp_path / "bundle")
    before = (old / "manifest.json").read_bytes()
    original = onnx_target.write_graphs
    for attribute, tensor in (("encoder", "latents"), ("decoder", "image")):

        def sabotaged(model: CodecModel, *rest: object, attribute: str = attribute, **more: object) -> dict:
            wrong = CodecModel(model.config)
            wrong.load_state_dict(model.state_dict())
            last = [m for m in getattr(wrong, attribute).modules() if isinstance(m, torch.nn.Conv2d)][-1]
            last.weight.data *= 1.3
            return original(wrong.eval(), *rest, **more)

        monkeypatch.setattr(onnx_target, "write_graphs", sabotaged)
        with pytest.raises(ParityError, match=f"{attribute}: {tensor}"):
            export(small_checkpoint, old)
        assert (old / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    with Codec.load(old) as codec:
        assert verify(codec).passed


def test_exporting_again_replaces_the_bundle(small_checkpoint: Path, small_bundle: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(small_bundle, tmp_path / "bundle")
    (bundle / "manifest.json").write_text("{}")
    export(small_checkpoint, bundle, name="new")
    with Codec.load(bundle) as codec:
        assert verify(codec).passed
        assert codec.info.name == "new"


def test_only_bundles_and_empty_folders_are_replaced(small_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(ExportError, match="no bundle"):
        export(small_checkpoint, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    export(small_checkpoint, tmp_path / "empty")


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no checkpoint"):
        export(tmp_path / "missing", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_digest_covers_what_decoding_needs(small_checkpoint: Path) -> None:
    model = checkpoint.load(small_checkpoint)
    digest = section_of(model).digest
    model.encoder.stem[0].weight.data += 1
    assert section_of(model).digest == digest
    model.decoder.stem[0].weight.data += 1
    changed = section_of(model).digest
    model.codebooks.weight.data += 1
    assert len({digest, changed, section_of(model).digest}) == 3


def test_books_that_fit_two_bytes_are_stored_so(small_checkpoint: Path, small_bundle: Path, tmp_path: Path) -> None:
    model = checkpoint.load(small_checkpoint)
    model.codebooks.weight.data = model.codebooks.weight.data.half().float()
    checkpoint.save(model, tmp_path / "half")
    bundle = export(tmp_path / "half", tmp_path / "bundle").bundle
    sizes = [(folder / "codebooks.safetensors").stat().st_size for folder in (small_bundle, bundle)]
    assert sizes[1] < sizes[0]
    with Codec.load(bundle) as codec:
        assert codec.bundle.codebooks.dtype == np.float32
        assert np.array_equal(codec.bundle.codebooks, model.codebooks.full().detach().numpy())
