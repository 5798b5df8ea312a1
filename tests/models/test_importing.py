"""`stcq import` from weight file to packets, for every tokenizer, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_tokenizers as tiny
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from stcq import Codec
from stcq.cli import main
from stcq.errors import CheckpointError
from stcq.models import checkpoint
from stcq.models.importing import import_weights

OWN = '''
"""A tokenizer of one's own: patches, linearly."""

from stcq.models.backbones.base import Pretrained
from torch import nn

PATCH = 8


class Patches(Pretrained):
    FIELDS = {"image_size": 32, "tokens": 16, "codes": 9, "dim": 4}

    def __init__(self, image_size, tokens, dim):
        super().__init__()
        self.options = {}
        self.down = nn.Conv2d(3, dim, PATCH, PATCH)
        self.up = nn.ConvTranspose2d(dim, 3, PATCH, PATCH)
        self.book = nn.Embedding(9, dim)

    def codebook(self):
        return self.book.weight.detach()

    def halves(self):
        return Encoder(self.down), Decoder(self.up)


class Encoder(nn.Module):
    def __init__(self, down):
        super().__init__()
        self.down = down

    def forward(self, images):
        return self.down(images).flatten(2).transpose(1, 2)


class Decoder(nn.Module):
    def __init__(self, up):
        super().__init__()
        self.up = up

    def forward(self, codes):
        return self.up(codes.transpose(1, 2).reshape(-1, codes.shape[2], 4, 4))
'''


def settings(name: str) -> dict[str, object]:
    return {"image_size": 16} if name == "codeformer" or name.endswith("vqgan") else {}


def imported(name: str, folder: Path) -> Path:
    weights = tiny.weights(name, folder / "w.safetensors")
    return import_weights(name.partition("-")[0], weights, folder / "checkpoint", settings=settings(name)).checkpoint


@pytest.mark.parametrize("name", sorted(tiny.TINY))
@torch.no_grad()
def test_the_checkpoint_is_the_tokenizer(name: str, tmp_path: Path) -> None:
    model = checkpoint.load(imported(name, tmp_path))
    original = tiny.tokenizer(name)
    encoder, decoder = original.halves()
    latents = model.encode(tiny.images())
    assert torch.equal(latents, encoder(tiny.images()))
    group, indices = model.tokens(tiny.images())
    wanted = torch.cdist(latents, original.codebook().expand(2, -1, -1)).argmin(2)
    assert torch.equal(indices, wanted)
    assert group.tolist() == [0, 0]
    assert torch.equal(model.decode(model.codebooks.lookup(group, indices)), decoder(original.codebook()[wanted]))
    assert model.config.books == "shared"
    provenance = checkpoint.read_config(tmp_path / "checkpoint")[1]["import"]
    assert provenance["sha256"] == checkpoint.sha256(tmp_path / "w.safetensors")


def test_what_training_needed_is_left_out(tmp_path: Path) -> None:
    tensors = load_file(tiny.weights("taming_vqgan", tmp_path / "w"))
    tensors["loss.discriminator.main.0.weight"] = torch.ones(2)
    torch.save({"state_dict": tensors, "epoch": 1}, tmp_path / "last.ckpt")
    done = import_weights(
        "taming-vqgan", tmp_path / "last.ckpt", tmp_path / "c", trust_pickle=True, settings={"image_size": 16}
    )
    assert done.ignored == ("loss.discriminator.main.0.weight",)
    assert sorted(path.name for path in done.checkpoint.iterdir()) == ["config.json", "model.safetensors"]


def damaged(tmp_path: Path, what: str) -> Path:
    path = tiny.weights("titok", tmp_path / "w.safetensors")
    tensors = load_file(path)
    if what == "missing":
        del tensors["encoder.ln_post.bias"], tensors["pixel_decoder.conv_in.weight"]
    elif what == "unexpected":
        tensors["encoder.extra"] = torch.ones(3)
    elif what == "shape":
        tensors["decoder.mask_token"] = torch.ones(1, 1, 5)
    elif what == "nan":
        tensors["encoder.ln_pre.weight"][3] = torch.nan
    elif what == "other":
        tensors = load_file(tiny.weights("codeformer", tmp_path / "v.safetensors"))
    save_file(tensors, path)
    return path


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", r"2 missing: encoder.ln_post.bias, pixel_decoder.conv_in.weight"),
        ("unexpected", r"1 unexpected: encoder.extra"),
        ("shape", r"1 of another shape: decoder.mask_token \(1, 1, 5\) for \(1, 1, 128\)"),
        ("nan", r"encoder.ln_pre.weight holds NaN"),
        ("other", r"missing: class_embedding|missing: decoder.* more; \d+ unexpected: encoder.blocks"),
    ],
)
def test_weights_that_do_not_fit(tmp_path: Path, what: str, message: str) -> None:
    path = damaged(tmp_path, what)
    with pytest.raises(CheckpointError, match=message) as caught:
        import_weights("titok", path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_size(tmp_path: Path) -> None:
    path = tiny.weights("titok", tmp_path / "w")
    message = r"encoder.positional_embedding \(17, 64\) for \(65, 64\)"
    with pytest.raises(CheckpointError, match=message):
        import_weights("titok", path, tmp_path / "out", settings={"image_size": 32})
    with pytest.raises(CheckpointError, match=r"35 of another shape: latent_tokens \(6, 64\) for .* and 29 more"):
        import_weights("titok", path, tmp_path / "out", settings={"width": 32})
    with pytest.raises(CheckpointError, match=r"its options are width"):
        import_weights("titok", path, tmp_path / "out", settings={"size": "small"})


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        import_weights("titok", tiny.weights("titok", tmp_path / "w"), tmp_path / "thesis")
    folder = imported("maskgit_vqgan", tmp_path)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="does not exist"):
        import_weights("titok", tmp_path / "nothing", folder)
    assert (folder / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("edge", "no weights to import"),
        ("resnet", "module:Class for your own"),
        ("no_such_module:Thing", "PYTHONPATH"),
        ("json:Nothing", "PYTHONPATH"),
        ("json:JSONDecoder", r"has no halves\(\)"),
        ("os:system", r"has no halves\(\)"),
    ],
)
def test_unknown_backbones(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        import_weights(name, tiny.weights("titok", tmp_path / "w"), tmp_path / "out")


def test_the_command(tmp_path: Path) -> None:
    weights = tiny.weights("maskgit_vqgan", tmp_path / "w.safetensors")
    command = ["import", "maskgit-vqgan", str(weights), "-o", str(tmp_path / "c"), "--image-size", "16"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert "66 tensors, 16 x 16, T 16, K 12, d 6: 8 bytes a face" in result.output
    codec = json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)["codec"]
    assert (codec["groups"], codec["books"], codec["backbone"]) == (1, "shared", "maskgit_vqgan")
    facts = CliRunner().invoke(main, ["info", str(tmp_path / "c")])
    assert "64      8      17" in facts.output
    for bad, message in ((["--set", "blocks"], "NAME=VALUE"), (["--set", "blocks=3"], "missing: decoder.mid.1")):
        assert message in CliRunner().invoke(main, [*command, *bad]).output


def test_a_backbone_of_ones_own(tmp_path: Path) -> None:
    """One file outside the package: import, export, encode and decode in a fresh process."""
    (tmp_path / "mine.py").write_text(OWN)
    steps = """
import mine, torch
from safetensors.torch import save_file
from stcq.cli import main
torch.manual_seed(0)
save_file(mine.Patches(32, 16, 4).state_dict(), "w.safetensors")
main(["import", "mine:Patches", "w.safetensors", "-o", "c"], standalone_mode=False)
main(["export", "c", "-o", "b"], standalone_mode=False)
"""
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", steps]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with Codec.load(tmp_path / "b") as codec:
        packet = codec.encode(np.zeros((32, 32, 3), np.uint8))
        assert len(packet) == 9 + 8
        assert codec.decode(packet).shape == (32, 32, 3)
    with pytest.raises(CheckpointError, match="PYTHONPATH"):
        checkpoint.load(tmp_path / "c")
