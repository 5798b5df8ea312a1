"""Every target of the reference model against torch on photographs (skipped where they are not at hand).

STCQ_FACES=500 pytest tests/test_real_targets.py -s      prints the figures; 60 faces without it
"""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from stcq.evaluation.quality import crops
from stcq.export.export import Exported, export
from stcq.export.golden import reference
from stcq.export.request import Request
from stcq.export.section import section_of
from stcq.models import checkpoint
from stcq.runtime.backends import is_installed
from stcq.runtime.codec import Codec
from stcq.runtime.sources import open_source
from stcq.runtime.verify import verify

CHECKPOINT = Path(__file__).parent.parent / "checkpoints" / "face-65"
FACES = int(os.environ.get("STCQ_FACES", "60"))
TARGETS = [t for t, backend in (("onnx", "onnxruntime"), ("openvino", "openvino")) if is_installed(backend)]


@pytest.fixture(scope="module")
def faces(shared: Path) -> np.ndarray:
    return np.stack(list(crops(open_source(shared / "faces" / "lfw160-val.zip"), 128, 0.8, FACES)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Exported:
    requests = [Request(target, precision) for target in [*TARGETS, "tensorrt"] for precision in ("fp32", "fp16")]
    return export(CHECKPOINT, tmp_path_factory.mktemp("targets") / "bundle", requests=requests)


def test_packets_and_pictures_are_torchs_on_every_target(exported: Exported, faces: np.ndarray) -> None:
    print("\n" + exported.summary())
    model = checkpoint.load(CHECKPOINT)
    expected = reference(model, section_of(model), faces)
    stored = [row.tobytes() for row in expected["packets"]]
    packets, pictures = {"torch": stored}, {"torch": expected["outputs"]}
    for variant, _ in exported.variants:
        if not is_installed(variant.backend):
            continue
        with Codec.load(exported.bundle, variant=variant.name) as codec:
            report = verify(codec, expected)
            packets[variant.name] = codec.encode_batch(faces)
            pictures[variant.name] = codec.decode_batch(stored)
        figures = ("packet_agreement", "token_agreement", "group_agreement", "largest_gap", "largest_pixel", "psnr")
        print(variant.name, len(report.flips), "flips,", {name: getattr(report, name) for name in figures})
        assert report.passed  # every difference has a gap below the precision's tolerance, 1e-4 for fp32
        if variant.precision == "fp32":
            assert report.packet_agreement >= 0.99
    for one, other in combinations(pictures, 2):
        difference = np.abs(pictures[one].astype(int) - pictures[other])
        assert (difference <= 2).mean() >= 0.999, (one, other)
    exact = [packets[name] for name in packets if name == "torch" or name.endswith("fp32")]
    assert np.mean([len(set(row)) == 1 for row in zip(*exact, strict=True)]) >= 0.99
