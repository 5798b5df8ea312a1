"""The paper's operating points against the numbers it printed, and `stcq info`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from stcq.cli import main
from stcq.errors import CheckpointError
from stcq.models.cli import find
from stcq.models.codec import backbone_class
from stcq.models.config import CodecConfig
from stcq.models.presets import PRESETS, cost

PUBLISHED = {  # bytes a face, bits a pixel as printed, millions of bytes of fp32 codebooks
    "maskgit-vqgan-m1-k4096": (384, "0.0469", 1073.7),
    "maskgit-vqgan-m16-k1024": (321, "0.0391", 4295.0),
    "titok-s-128-m1-k4096": (192, "0.0234", 25.2),
    "titok-s-128-m256-k256": (129, "0.0157", 402.7),
    "titok-l-32-m1-k4096": (48, "0.0059", 6.3),
    "titok-l-32-m256-k256": (33, "0.0040", 100.7),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_published_numbers(name: str) -> None:
    size, bpp, megabytes = PUBLISHED[name]
    price = cost(PRESETS[name])
    assert (price.payload_bytes, f"{price.bpp:.4f}") == (size, bpp)
    assert price.codebook_bytes["fp32"] / 1e6 == pytest.approx(megabytes, abs=0.05)
    assert price.codebook_bytes["fp16"] * 2 == price.codebook_bytes["fp32"] == price.nn_bytes
    assert price.router_bytes * PRESETS[name].groups == price.nn_bytes
    assert price.packet_bytes == size + 9


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_can_be_built(name: str) -> None:
    config = PRESETS[name]
    with torch.device("meta"):
        made = backbone_class(config.backbone)(config.image_size, config.tokens, config.dim, **config.backbone_options)
    assert made.halves()


def test_shared_books_are_stored_once() -> None:
    specific = cost(CodecConfig(tokens=64, codes=256, groups=4, dim=8))
    shared = cost(CodecConfig(tokens=64, codes=256, groups=4, dim=8, books="shared"))
    assert specific.codebook_bytes["fp32"] == 64 * shared.codebook_bytes["fp32"]
    assert specific.bits == shared.bits


def test_the_command(small_checkpoint: Path, small_bundle: Path) -> None:
    listed = CliRunner().invoke(main, ["info", "--presets"]).output
    assert all(name in listed for name in PRESETS)
    facts = json.loads(CliRunner().invoke(main, ["info", "--presets", "--json"]).output)
    assert facts["titok-l-32-m256-k256"]["cost"]["bits"] == 264
    sources = [find(str(path)) for path in (small_checkpoint, small_bundle)]
    assert [(c.tokens, c.codes, c.groups, c.dim, c.image_size) for c in sources] == [(8, 5, 3, 3, 32)] * 2
    with pytest.raises(CheckpointError, match="presets: maskgit"):
        find("titok-xl")
    assert CliRunner().invoke(main, ["info"]).exit_code == 2


def test_a_walk_goes_through_all_books() -> None:
    price = cost(CodecConfig(groups=256, codes=256, dim=5, memory=4))
    assert price.payload_bytes == 65
    assert price.router_bytes == price.nn_bytes == 4 * 64 * 256 * 5 * 4
