"""Codebooks past the 2 GB that a protobuf holds: exported, mapped instead of read, and the same codec.

Takes about 12 GB of memory, 7 GB of disk and some minutes, so it runs only when STCQ_LARGE is set:
STCQ_LARGE=1 pytest tests/export/test_large_codebooks.py -s
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from stcq.export.export import export
from stcq.export.weights import LARGE
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig

CONFIG = CodecConfig(
    tokens=256,
    codes=1024,
    groups=16,
    dim=130,
    image_size=256,
    backbone_options={"encoder_widths": [8, 8, 8], "decoder_widths": [8, 8, 8], "decoder_mixers": 0},
)
MEASURE = """
import sys, numpy
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec

def memory():
    fields = dict(line.split(":") for line in open("/proc/self/status") if line.startswith("Rss"))
    return {name: int(value.split()[0]) / 1e6 for name, value in fields.items()}

bundle = Bundle(__import__("pathlib").Path(sys.argv[1]))
for variant in bundle.manifest.variants:
    for graph in variant.graphs:
        bundle.graph(variant, graph)  # hashes the files, before memory is looked at
codec = Codec(bundle)
before = memory()
packet = codec.encode(numpy.zeros((256, 256, 3), numpy.uint8))
decoded = codec.decode(packet)
after = memory()
print(f"anonymous {after['RssAnon'] - before['RssAnon']:.2f} GB more, mapped files {after['RssFile']:.2f} GB")
assert after["RssAnon"] - before["RssAnon"] < 1.0, (before, after)
"""


@pytest.mark.skipif(not os.environ.get("STCQ_LARGE"), reason="12 GB of memory and minutes; set STCQ_LARGE=1 to run it")
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = CodecModel(CONFIG).eval()
    books = model.codebooks.weight.numel() * 4
    assert books > 1 << 31 > LARGE
    checkpoint.save(model, tmp_path / "checkpoint")
    del model
    exported = export(tmp_path / "checkpoint", tmp_path / "bundle")
    print(exported.summary())
    [(variant, _)] = exported.variants
    assert exported.proofs[variant.name].reports["golden"].passed
    folder = tmp_path / "bundle" / "onnx-fp32"
    for graph in ("quantizer", "tokenizer", "decoder"):
        path = folder / f"{graph}.onnx"
        assert path.stat().st_size < 1 << 20
        [tensor] = [t for t in onnx.load(path, load_external_data=False).graph.initializer if t.name == "books"]
        assert tensor.data_location == onnx.TensorProto.EXTERNAL
    assert (folder / "quantizer.bin").stat().st_size > books  # once for all three
    result = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "bundle"], capture_output=True, text=True, check=False
    )
    print(result.stdout)
    assert result.returncode == 0, result.stderr
    shutil.rmtree(tmp_path / "bundle")
