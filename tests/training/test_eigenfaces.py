"""Principal components as the start of the eigen backbone."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from stcq.errors import CheckpointError, TrainingError
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.models.transplant import transplant
from stcq.runtime.sources import open_source
from stcq.training.data import fixed_set
from stcq.training.eigenfaces import carry_over, components, deal, pull_back, quarters, start_transform
from stcq.training.options import DataOptions, LossOptions
from stcq.training.rebalance import encode, rebalance
from stcq.training.recipe import Recipe

SMALL = {"encoder_stem": 4, "encoder_widths": (8, 8, 8), "decoder_stem": 4, "decoder_widths": (8, 8, 8)}
CODEC = CodecConfig(tokens=2, codes=4, dim=3, image_size=32, backbone="eigen", backbone_options=SMALL)


def test_components_give_the_points_back():
    points = torch.randn(200, 12) * torch.linspace(0.1, 3, 12)
    centred = points - points.mean(0)
    variances, analysis, synthesis = components(centred, 12)
    assert (variances.diff() <= 0).all()
    torch.testing.assert_close(centred @ analysis.T @ synthesis.T, centred, atol=1e-4, rtol=0)


def test_a_metric_turns_the_first_component_to_what_it_weighs():
    centred = torch.randn(5000, 6) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    metric = torch.eye(6)
    metric[4, 4] = 101
    _, analysis, synthesis = components(centred, 6, metric)
    assert analysis[0].abs().argmax() == 4
    torch.testing.assert_close(centred @ analysis.T @ synthesis.T, centred, atol=1e-3, rtol=0)


def test_pull_back_finds_what_moves_the_embedding():
    def embed(images):
        flat = images.flatten(1)
        return torch.stack([flat[:, 0] + 1, flat[:, 0] * 0 + 1], 1), []

    pictures = torch.rand(60, 3 * 4 * 4)
    found = pull_back(embed, pictures, torch.eye(4), 0)
    strength = found.diagonal().reshape(3, 4, 4)
    assert (strength > 1e-6).nonzero().tolist() == [[0, 0, 0], [0, 0, 3]]  # the corner and its mirror image


def test_tokens_have_about_equal_products():
    variances = torch.logspace(3, -1, 64)
    order = deal(variances, 8)
    assert sorted(order.tolist()) == list(range(64))
    logs = variances[order].log().reshape(8, 8).sum(1)
    assert logs.max() - logs.min() < 2.5  # from 0 to 9 the single logarithms spread


def faces(folder, count):
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(4, 8, 8, 3))
    for number in range(count):
        small = 128 + 12 * np.tensordot(rng.normal(size=4), basis, 1)
        large = small.clip(0, 255).astype(np.uint8).repeat(4, 0).repeat(4, 1)
        Image.fromarray(large).save(folder / f"{number}.png")


def pictures_of(folder):
    return fixed_set(open_source(folder), CODEC.image_size, DataOptions(), 100)


def test_start_codes_pictures_of_few_components(tmp_path):
    faces(tmp_path, 40)
    model = CodecModel(CODEC).eval()
    start_transform(model.encoder, model.decoder, pictures_of(tmp_path), Recipe(codec=CODEC), None)
    images = torch.from_numpy(np.stack([np.array(Image.open(tmp_path / f"{n}.png")) for n in range(8)]))
    quarter = torch.nn.functional.avg_pool2d(images.permute(0, 3, 1, 2) / 255, 4).flatten(1)
    latents = model.encode(images.permute(0, 3, 1, 2) / 255)
    found = model.decoder.transform(latents.flatten(1))
    spread = (quarter - quarter.mean(0)).square().mean()
    assert (found - quarter).square().mean() < 0.5 * spread  # mirror images share the six components
    assert 0.2 < latents.var().item() < 5


def test_another_number_of_tokens_goes_on_from_what_was_learnt(tmp_path):
    faces(tmp_path, 40)
    old, new = (CodecModel(dataclasses.replace(CODEC, tokens=t)).eval() for t in (4, 8))
    for model in (old, new):  # components enough for every picture: both codes hold it whole
        start_transform(model.encoder, model.decoder, pictures_of(tmp_path), Recipe(codec=model.config), None)
    for part in (old.encoder.residual, old.decoder.head[0]):
        torch.nn.init.normal_(part.weight, std=0.02)
    transplant(old, new)
    carry_over(old, new)
    images = torch.from_numpy(np.stack([np.array(Image.open(tmp_path / f"{n}.png")) for n in range(8)]))
    images = images.permute(0, 3, 1, 2) / 255
    torch.testing.assert_close(new.decode(new.encode(images)), old.decode(old.encode(images)), atol=2e-3, rtol=0)


def test_new_tokens_show_the_same_pictures_and_follow_the_balance(tmp_path):
    """Only the upper left corner moves this embedding: with weight on it, its token takes more of a codeword."""
    faces(tmp_path, 40)

    def embed(images):
        corner = images[:, :, :8, :8].mean((2, 3))
        return torch.cat([corner, torch.ones(len(corner), 1)], 1), []

    pictures = torch.from_numpy(np.stack([np.array(Image.open(tmp_path / f"{n}.png")) for n in range(40)]))
    pictures = torch.nn.functional.pad(pictures, (0, 1), value=255).permute(0, 3, 1, 2).contiguous()
    missed = {}
    for balance in (1e-3, 1e3):
        torch.manual_seed(0)
        model = CodecModel(CODEC).eval()
        recipe = Recipe(codec=CODEC, loss=LossOptions(mse=1.0, balance=balance))
        start_transform(model.encoder, model.decoder, pictures_of(tmp_path), recipe, None)
        before = model.decode(encode(model, pictures))
        rebalance(model, model, pictures_of(tmp_path), recipe, embed)
        latents = encode(model, pictures)
        torch.testing.assert_close(model.decode(latents), before, atol=1e-4, rtol=0)
        latents, before = latents.repeat(20, 1, 1), before.repeat(20, 1, 1, 1)
        latents = latents + 0.3 * latents.std() * torch.randn(latents.shape)  # as coarse as a codeword anywhere
        moved = (embed(model.decode(latents))[0] - embed(before)[0]).detach()
        missed[balance] = float(moved.square().mean())
    assert missed[1e3] < 0.85 * missed[1e-3]


def test_as_many_numbers_in_other_tokens_show_the_same_pictures(tmp_path):
    faces(tmp_path, 40)
    old, new = CodecModel(CODEC).eval(), CodecModel(dataclasses.replace(CODEC, tokens=3, dim=2)).eval()
    start_transform(old.encoder, old.decoder, pictures_of(tmp_path), Recipe(codec=CODEC), None)
    transplant(old, new)
    recipe = Recipe(codec=new.config, loss=LossOptions(balance=1.0))
    rebalance(new, new, pictures_of(tmp_path), recipe, lambda images: (images.mean((2, 3)), []))
    image = torch.rand(2, 3, 32, 32)
    assert new.encode(image).shape == (2, 3, 2)
    torch.testing.assert_close(new.decode(new.encode(image)), old.decode(old.encode(image)), atol=1e-4, rtol=0)


def test_fewer_numbers_are_the_components_that_count_most(tmp_path):
    """Pictures of eight components, mirror images counted; of twelve numbers six are kept."""
    faces(tmp_path, 40)
    old, new = (CodecModel(dataclasses.replace(CODEC, tokens=t)).eval() for t in (4, 2))
    pictures = pictures_of(tmp_path)
    start_transform(old.encoder, old.decoder, pictures, Recipe(codec=old.config), None)
    torch.nn.init.normal_(old.decoder.head[0].weight, std=0.02)
    transplant(old, new)
    pictures = torch.cat([pictures, pictures.flip(3)])
    before = old.decode(encode(old, pictures))
    recipe = Recipe(codec=new.config, loss=LossOptions(mse=1.0, balance=1.0))
    rebalance(old, new, pictures, recipe, lambda images: (images.mean((2, 3)), []))
    after = new.decode(encode(new, pictures))
    spread = (before - before.mean(0)).square().mean()
    assert (after - before).square().mean() < 0.5 * spread


@pytest.mark.parametrize("option", ["encoder_widths", "decoder_widths"])
def test_convolutions_of_other_widths_are_refused(option):
    old = CodecModel(dataclasses.replace(CODEC, tokens=4))
    new = CodecModel(dataclasses.replace(CODEC, backbone_options=SMALL | {option: (8, 8, 16)}))
    with pytest.raises(CheckpointError, match="give both the same widths"):
        transplant(old, new)


def test_too_few_pictures(tmp_path):
    faces(tmp_path, 3)
    model = CodecModel(CODEC)
    with pytest.raises(TrainingError, match="cannot give 6 principal components"):
        start_transform(
            model.encoder, model.decoder, pictures_of(tmp_path), Recipe(codec=CODEC, loss=LossOptions()), None
        )


def test_too_few_pictures_for_new_tokens(tmp_path):
    faces(tmp_path, 2)
    model = CodecModel(CODEC).eval()
    with pytest.raises(TrainingError, match="4 whole pictures cannot give 6 components"):
        rebalance(model, model, pictures_of(tmp_path), Recipe(codec=CODEC), lambda images: (images, []))


def test_pictures_with_transparent_parts_are_left_out():
    pictures = torch.full((2, 4, 32, 32), 255, dtype=torch.uint8)
    pictures[1, 3, :16] = 0
    assert quarters(pictures).shape == (2, 3 * 8 * 8)  # the whole one and its mirror image
