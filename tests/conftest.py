"""Fixtures: the embedded bundle, a small codec exported once, and pictures that anyone may have."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the CPUs; also what they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from stcq.export.export import export
from stcq.export.request import PRECISIONS, Request
from stcq.export.targets import TARGETS
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.runtime.codec import Codec
from stcq.runtime.demo_face import demo_face

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("STCQ_SHARED", ROOT.parent / "shared"))
SMALL = {
    "encoder_stem": 8,
    "encoder_widths": [8, 8, 16],
    "encoder_blocks": [1, 0, 1],
    "encoder_mixers": 1,
    "decoder_stem": 8,
    "decoder_widths": [8, 8, 16],
    "decoder_blocks": [1, 0, 1],
    "decoder_mixers": 1,
}


@pytest.fixture(autouse=True)
def torch_threads() -> Iterator[None]:
    """What a test does to torch's threads ends with it: another number of threads rounds sums otherwise."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of faces and recognisers that are not part of the project."""
    if not (SHARED / "faces").is_dir():
        pytest.skip(f"needs the faces and models in {SHARED} (set STCQ_SHARED)")
    return SHARED


@pytest.fixture(scope="session")
def face() -> np.ndarray:
    return np.asarray(demo_face())


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The embedded bundle."""
    return Codec.load()


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained codec with odd sizes: M = 3, K = 5, S = 32, 2 tokens in each cell."""
    torch.manual_seed(0)
    config = CodecConfig(tokens=8, codes=5, groups=3, dim=3, image_size=32, backbone_options=SMALL)
    model = CodecModel(config).train()
    for _ in range(30):  # running statistics of BatchNorm
        model(torch.rand(8, 3, 32, 32))
    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    checkpoint.save(model.eval(), folder)
    return folder


@pytest.fixture(scope="session")
def small_bundle(small_checkpoint: Path) -> Path:
    return export(small_checkpoint, small_checkpoint.parent / "bundle").bundle


@pytest.fixture(scope="session")
def targets_bundle(small_checkpoint: Path) -> Path:
    """The small codec for every target at every precision."""
    requests = [Request(target, precision) for target in TARGETS for precision in PRECISIONS]
    return export(small_checkpoint, small_checkpoint.parent / "targets", requests=requests).bundle
