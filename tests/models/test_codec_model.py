"""The codec model: shapes, cost, configuration, checkpoints."""

from __future__ import annotations

import errno
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from stcq.errors import CheckpointError
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.models.layers import Smooth
from stcq.models.transplant import transplant
from torch import nn


def count_macs(model: nn.Module, *inputs: torch.Tensor) -> int:
    """Multiply-accumulates of all convolutions and linear layers."""
    total = 0

    def add(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output.numel() * (module.weight[0].numel())

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    model(*inputs)
    return total


def test_the_reference_encoder_fits_embedded_cpus() -> None:
    model = CodecModel(CodecConfig()).eval()
    assert count_macs(model.encoder, torch.zeros(1, 3, 128, 128)) <= 0.45e9
    assert count_macs(model.decoder, torch.zeros(1, 64, 8)) <= 3e9
    kinds = {type(module) for module in model.encoder.modules() if not list(module.children())}
    assert kinds == {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Linear}


def test_smooth_decoders_lay_no_pattern_over_flat_areas() -> None:
    """Of a pixel shuffle's four phases the low pass leaves only the mean, up to the borders."""
    shuffled = torch.nn.functional.pixel_shuffle(torch.rand(1, 8, 1, 1).expand(1, 8, 6, 6), 2)
    smoothed = Smooth(2, 12)(shuffled)
    inner = smoothed[..., 1:-1, 1:-1]
    assert shuffled.std(dim=(2, 3)).min() > 0.01
    assert torch.allclose(inner, shuffled.mean((2, 3), keepdim=True).expand_as(inner), atol=1e-6)
    assert torch.allclose(Smooth(2, 12)(torch.ones(1, 2, 12, 12)), torch.ones(1, 2, 12, 12))


def test_smooth_is_an_option_of_the_checkpoint(tmp_path: Path) -> None:
    """Older checkpoints do not name it and stay as they were."""
    made = {}
    for smooth in (False, True):
        torch.manual_seed(0)
        model = CodecModel(CodecConfig(backbone_options={"smooth": smooth})).eval()
        checkpoint.save(model, tmp_path / str(smooth))
        made[smooth] = checkpoint.load(tmp_path / str(smooth)).decode(torch.ones(1, 64, 8))
    config = json.loads((tmp_path / "False" / "config.json").read_text())
    del config["codec"]["backbone_options"]["smooth"]
    (tmp_path / "False" / "config.json").write_text(json.dumps(config))
    assert torch.equal(checkpoint.load(tmp_path / "False").decode(torch.ones(1, 64, 8)), made[False])
    assert not torch.equal(made[True], made[False])


@pytest.mark.parametrize(
    ("size", "tokens", "dim", "groups"), [(128, 64, 8, 4), (128, 128, 4, 1), (64, 16, 5, 3), (16, 1, 2, 2)]
)
def test_shapes(size: int, tokens: int, dim: int, groups: int) -> None:
    model = CodecModel(CodecConfig(tokens=tokens, codes=7, groups=groups, dim=dim, image_size=size)).eval()
    images = torch.rand(2, 3, size, size)
    assert model.encode(images).shape == (2, tokens, dim)
    decoded, quantized = model(images)
    assert decoded.shape == images.shape
    assert quantized.indices.shape == (2, tokens)
    assert model.reconstruct(quantized.group, quantized.indices).shape == (2, size, size, 3)
    group, indices = model.tokens(images, "router")
    assert indices.shape == (2, tokens)
    assert (group < groups).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "resnet"}, "unknown"),
        ({"image_size": 100}, "multiple of 16"),
        ({"tokens": 63}, "multiple of"),
        ({"tokens": 0}, "at least 1"),
        ({"codes": 2.5}, "whole number"),
        ({"books": "own"}, "shared"),
        ({"backbone_options": {"width": 3}}, "width"),
        ({"backbone": 5}, "backbone is 5; it must be a name such as 'edge'"),
        ({"backbone": []}, "it must be a name such as 'edge'"),
        ({"books": []}, "books is"),
        ({"backbone_options": 5}, "backbone_options is 5; it must be a table by name"),
        (
            {"backbone_options": {"encoder_widths": [8, 8]}},
            r"encoder_widths is \(8, 8\); give something like",
        ),
        ({"backbone_options": {"encoder_widths": 8}}, "encoder_widths is 8; give something like"),
        ({"backbone_options": {"encoder_widths": [0, 8, 8]}}, "encoder_widths is .*; give 1 or more"),
        ({"backbone_options": {"encoder_stem": "8"}}, "encoder_stem is '8'; give something like 32"),
        ({"backbone_options": {"encoder_mixers": -1}}, "encoder_mixers is -1; give 0 or more"),
        ({"backbone_options": {"encoder_mixers": True}}, "encoder_mixers is True; give something like 2"),
        ({"backbone_options": {"smooth": "no"}}, "smooth is 'no'; give something like False"),
        ({"backbone": "eigen", "backbone_options": {"decoder_channels": 0}}, "decoder_channels is 0; give 1 or more"),
        ({"backbone": "eigen", "backbone_options": {"decoder_cutoff": "a"}}, "decoder_cutoff is 'a'; give something"),
    ],
)
def test_impossible_configurations(changes: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        CodecModel(CodecConfig(**changes))


def test_a_checkpoint_is_the_same_model(small_checkpoint: Path) -> None:
    model = checkpoint.load(small_checkpoint)
    images = torch.rand(2, 3, 32, 32)
    assert not model.training
    checkpoint.save(model, small_checkpoint.parent / "again", {"note": "copy"})
    again = checkpoint.load(small_checkpoint.parent / "again")
    assert torch.equal(again(images)[0], model(images)[0])
    assert checkpoint.read_config(small_checkpoint.parent / "again")[1] == {"note": "copy"}
    assert sorted(p.name for p in (small_checkpoint.parent / "again").iterdir()) == ["config.json", "model.safetensors"]


def test_a_checkpoint_keeps_all_backbone_options(small_checkpoint: Path) -> None:
    document = json.loads((small_checkpoint / "config.json").read_text())
    assert document["codec"]["backbone_options"]["decoder_fine"] == 0


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    checkpoint.save(checkpoint.load(small_checkpoint), tmp_path)
    return tmp_path


def damage(folder: Path, what: str) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = "router.layers.1.bias"
    if what == "missing":
        tensors.pop(name)
    elif what == "extra":
        tensors["more"] = tensors[name].clone()
    elif what == "shape":
        tensors[name] = tensors[name][:-1].clone()
    elif what == "nan":
        tensors[name][0] = float("nan")
    elif what == "kind":
        tensors["codebooks.weight"] = tensors["codebooks.weight"].to(torch.int8)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "1 tensors missing"),
        ("extra", "1 extra"),
        ("shape", "has shape"),
        ("nan", "NaN"),
        ("kind", "is of torch.int8"),
    ],
)
def test_damaged_weights(folder: Path, what: str, message: str) -> None:
    damage(folder, what)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(folder)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16])
def test_weights_of_another_precision_become_float32(folder: Path, kind: torch.dtype) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({n: t.to(kind) if t.is_floating_point() else t for n, t in tensors.items()}, path)
    state = checkpoint.load(folder).state_dict()
    assert {t.dtype for t in state.values() if t.is_floating_point()} == {torch.float32}
    assert state["encoder.stem.1.num_batches_tracked"].dtype == torch.int64
    torch.testing.assert_close(state["codebooks.weight"], tensors["codebooks.weight"].float(), rtol=0.01, atol=0)


def test_a_model_that_is_no_number_is_not_written(folder: Path, tmp_path: Path) -> None:
    model = checkpoint.load(folder)
    model.codebooks.weight.data[0, 0, 0, 0] = float("inf")
    with pytest.raises(CheckpointError, match=r"codebooks.weight of the model for .*new holds NaN or infinity"):
        checkpoint.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_full_disk_is_an_error_of_the_disk(folder: Path) -> None:
    """safetensors has errors of its own; a limit on a file's size is the nearest thing to a full disk."""
    before = (folder / "model.safetensors").read_bytes()
    model, limits = checkpoint.load(folder), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            checkpoint.save(model, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(folder / "model.safetensors"))
    assert (folder / "model.safetensors").read_bytes() == before


def test_unreadable_checkpoints(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder)
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(folder)
    config = json.loads((folder / "config.json").read_text())
    for text, message in [
        (json.dumps(config | {"format": 2}), "upgrade stcq"),
        (json.dumps(config | {"codec": config["codec"] | {"speed": 1}}), "unknown fields"),
        ("[]", "no 'codec' section"),
        (json.dumps(config | {"provenance": [1]}), "provenance is no table"),
        ("{", "cannot be read"),
    ]:
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load(folder)


def test_new_residual_blocks_start_as_the_identity() -> None:
    torch.manual_seed(0)
    small = CodecModel(CodecConfig(tokens=4, dim=3, image_size=32, backbone_options={"decoder_fine": 0})).eval()
    options = {"decoder_fine": 2, "decoder_blocks": [4, 3, 1], "encoder_blocks": [2, 2, 3]}
    large = CodecModel(CodecConfig(tokens=4, dim=3, groups=2, image_size=32, backbone_options=options)).eval()
    transplant(small, large)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(small.encode(images), large.encode(images))
    assert torch.equal(small.decode(small.encode(images)), large.decode(large.encode(images)))
    large.decode(large.encode(images)).square().mean().backward()  # norms stand still, as in the decoder stage
    assert all(block.body[1][0].weight.grad.abs().max() > 0 for block in large.decoder.blocks[3])
    with pytest.raises(CheckpointError, match="residual blocks may only grow"):
        transplant(large, small)
    mixers = CodecModel(CodecConfig(tokens=4, dim=3, image_size=32, backbone_options={"decoder_mixers": 4}))
    with pytest.raises(CheckpointError, match="residual blocks"):
        transplant(small, mixers)


def test_rounded_weights_take_half_the_bytes(small_checkpoint: Path, tmp_path: Path) -> None:
    model = checkpoint.load(small_checkpoint)
    images = torch.rand(4, 3, 32, 32)
    before = model.encode(images)
    checkpoint.save(checkpoint.rounded(model), tmp_path / "half")
    size, old = ((p / "model.safetensors").stat().st_size for p in (tmp_path / "half", small_checkpoint))
    assert size < 0.6 * old
    again = checkpoint.load(tmp_path / "half")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert again.encoder.stem[0].weight.dtype == torch.float32
    torch.testing.assert_close(again.encode(images), before, rtol=0.02, atol=0.02)
