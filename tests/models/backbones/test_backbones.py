"""Every published tokenizer against what its official implementation computed on the same weights.

tests/vectors/backbones.json holds names and shapes of the official state dicts and numbers that official code gave in
float32 for tiny.numbers and tiny.images; how it was made is told in docs/backbones.md.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_tokenizers as tiny
import torch
from stcq.errors import CheckpointError
from stcq.models.backbones import PRETRAINED, layers
from stcq.models.backbones.titok import Attention
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from torch import Tensor, nn

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "backbones.json").read_text())
LARGE = {"width": 1024, "layers": 24, "heads": 16, "decoder_width": 1024, "decoder_layers": 24, "decoder_heads": 16}
RELEASED: dict[str, tuple[str, dict[str, Any], float, float]] = {  # millions of parameters: encoder, decoder
    "titok S-128": ("titok", {}, 25.9, 57.7),
    "titok L-32": ("titok", {"tokens": 32, **LARGE}, 303, 338),
    "maskgit_vqgan": ("maskgit_vqgan", {}, 23.8, 30.5),
    "taming_vqgan": ("taming_vqgan", {}, 29.4, 42.5),
    "codeformer": ("codeformer", {}, 29.4, 34.1),
}


def codec(name: str) -> CodecModel:
    """A tiny tokenizer as a codec with its own codebook."""
    made = tiny.tokenizer(name)
    fields = {key: tiny.TINY[name][key] for key in ("image_size", "tokens", "dim", "codes")}
    config = CodecConfig(groups=1, books="shared", backbone=name.partition("-")[0], **fields)
    model = CodecModel(config, made)
    model.set_books(model.config, made.codebook()[None, None])
    return model.eval()


def relative(found: Tensor, wanted: list[float]) -> float:
    target = torch.tensor(wanted)
    return float((found.flatten()[: len(target)] - target).abs().max() / target.abs().max())


@pytest.mark.parametrize("name", sorted(VECTORS))
@torch.no_grad()
def test_names_and_numbers_are_the_official_ones(name: str) -> None:
    official = VECTORS[name]
    keys = {key: list(value.shape) for key, value in tiny.tokenizer(name).state_dict().items()}
    assert keys == official["keys"]
    model = codec(name)
    latents = model.encode(tiny.images())
    assert relative(latents[1], official["latents"]) < 1e-4
    group, indices = model.codebooks.select(latents)
    assert indices.tolist() == official["indices"]
    image = model.decode(model.codebooks.lookup(group, indices))
    assert relative(image[1, :, 5, 3:11], official["image"]) < 1e-4


@pytest.mark.parametrize("name", sorted(RELEASED))
def test_released_sizes(name: str) -> None:
    backbone, changes, encoder_size, decoder_size = RELEASED[name]
    kind = PRETRAINED[backbone]
    fields = {key: changes.pop(key, value) for key, value in kind.FIELDS.items()}
    with torch.device("meta"):
        made = kind(fields["image_size"], fields["tokens"], fields["dim"], **changes)
    sizes = [sum(p.numel() for p in half.parameters()) / 1e6 for half in made.halves()]
    assert sizes == pytest.approx([encoder_size, decoder_size], rel=0.005)
    shapes = {key: tuple(value.shape) for key, value in made.state_dict().items()}
    told = kind.sizes(shapes, fields["image_size"])
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in made.options.items()} == told["backbone_options"]
    assert fields | told == told | {"image_size": fields["image_size"]}


@pytest.mark.parametrize("name", sorted(tiny.TINY))
def test_shapes_tell_the_sizes(name: str) -> None:
    made = tiny.tokenizer(name)
    shapes = {key: tuple(value.shape) for key, value in made.state_dict().items()}
    told = type(made).sizes(shapes, 16)
    again = type(made)(16, told["tokens"], told["dim"], **told["backbone_options"])
    assert {key: tuple(value.shape) for key, value in again.state_dict().items()} == shapes


def test_maskgit_drops_the_input_where_the_width_changes() -> None:
    """The 1x1 convolution sees the block's own output: with conv2 at zero nothing is left of the input."""
    block = PRETRAINED["maskgit_vqgan"](**tiny.TINY["maskgit_vqgan"]).encoder.down[2].block[0]
    block.conv2.weight.data.zero_()
    assert block.nin_shortcut is not None
    assert block(torch.randn(1, 32, 4, 4)).abs().max() == 0


def test_titok_legacy_latents_mix_tokens() -> None:
    """A change of one output token of the transformer reaches several latents, but one only without `legacy`."""
    for name, reached in (("titok", 1), ("titok-pixels", 0)):
        encoder = tiny.tokenizer(name).encoder
        x = torch.randn(1, 1 + 16 + 6, 64)
        found = []
        for change in (0.0, 1.0):
            y = x.clone()
            y[0, 1 + 16 + 2] += change * torch.randn(64, generator=torch.Generator().manual_seed(1))
            encoder.run = lambda patches, latents, y=y: y
            found.append(encoder(tiny.images(1), torch.zeros(6, 64)))
        moved = ((found[0] - found[1]).abs().amax(2)[0] > 1e-6).sum().item()
        assert (moved > 1) == bool(reached)


def test_titok_hands_over_softly_and_at_length_one() -> None:
    model = codec("titok")
    latents = model.encode(tiny.images())
    assert torch.allclose(latents.norm(dim=2), torch.ones(2, 6), atol=1e-6)
    assert torch.allclose(model.codebooks.weight.norm(dim=3), torch.ones(1, 1, 9), atol=1e-6)
    assert torch.allclose(model.decode(latents * 3), model.decode(latents), atol=1e-5)
    gradient = torch.autograd.grad(model.decode(latents).sum(), model.decoder.pixel_quantize.embedding.weight)[0]
    assert (gradient.abs().sum(1) > 0).all()  # an argmax would touch some rows only


def test_attention_is_torchs() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(24, 3), nn.MultiheadAttention(24, 3, batch_first=True)
    theirs.in_proj_bias.data.normal_()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.randn(2, 7, 24)
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(tiny.TINY))
@torch.no_grad()
def test_half_precision(name: str, dtype: torch.dtype) -> None:
    model = codec(name)
    wanted = model.encode(tiny.images())
    images = model.decode(wanted)
    half = codec(name)
    half.encoder.to(dtype)
    half.decoder.to(dtype)
    found = half.encode(tiny.images().to(dtype)).float()
    tolerance = 0.02 if dtype == torch.float16 else 0.15
    assert (found - wanted).norm() / wanted.norm() < tolerance
    assert (half.decode(wanted.to(dtype)).float() - images).norm() / images.norm() < tolerance


def test_norms_and_softmax_survive_half_precision_extremes() -> None:
    """Sums and exponentials beyond 65,504 stay finite."""
    x = torch.full((1, 32, 64, 64), 200.0, dtype=torch.float16) * torch.randn(1, 32, 64, 64).half()
    norm = layers.GroupNorm(32).half()
    assert torch.allclose(norm(x).float(), layers.GroupNorm(32)(x.float()), atol=0.01)
    y = torch.linspace(-60000, 60000, 9).half()
    assert torch.isfinite(layers.softmax(y, -1)).all()
    assert torch.isfinite(layers.unit(torch.zeros(2, 5).half())).all()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("maskgit_vqgan", {"tokens": 15}, "gives 16 tokens, not 15"),
        ("taming_vqgan", {"channels": 33}, "multiple of 32"),
        ("codeformer", {"image_size": 18}, "stride 4"),
        ("codeformer", {"depth": 3}, "its options are channels"),
        ("titok", {"image_size": 18}, "no multiple of the patch"),
        ("titok", {"heads": 3}, "heads must divide"),
        ("titok", {"pixel_mult": [1, 1]}, "pixel_mult doubles to 2"),
    ],
)
def test_impossible_sizes(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PRETRAINED[name](**(tiny.TINY[name] | changes))


def test_released_names_do_not_change() -> None:
    """Names and shapes of the full-size state dicts, which official code loaded strictly (docs/backbones.md)."""
    found = {}
    for name, kind in PRETRAINED.items():
        with torch.device("meta"):
            made = kind(kind.FIELDS["image_size"], kind.FIELDS["tokens"], kind.FIELDS["dim"])
        lines = "".join(f"{key} {list(value.shape)}\n" for key, value in sorted(made.state_dict().items()))
        found[name] = hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert found == {
        "codeformer": "6d5182f19653b74a",
        "maskgit_vqgan": "2d3942ba6b1ccbb7",
        "taming_vqgan": "8acf990358c998b5",
        "titok": "7e528cce79bab504",
    }
