"""The eigen backbone starts as principal components and keeps their picture."""

import dataclasses

import pytest
import torch
from stcq.errors import CheckpointError
from stcq.export.section import section_of
from stcq.models import checkpoint
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.models.eigen import bicubic
from stcq.models.transplant import same_numbers, transplant

SMALL = {
    "encoder_stem": 4,
    "encoder_widths": (8, 8, 8),
    "decoder_stem": 4,
    "decoder_widths": (8, 8, 8),
    "encoder_channels": 2,
    "decoder_channels": 2,
}
CONFIG = CodecConfig(tokens=6, codes=4, dim=3, image_size=32, backbone="eigen", backbone_options=SMALL)


def test_any_number_of_tokens_and_a_linear_start():
    model = CodecModel(CONFIG).eval()
    images = torch.rand(2, 3, 32, 32)
    latents = model.encode(images)
    assert latents.shape == (2, 6, 3)
    quarter = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
    torch.testing.assert_close(latents.flatten(1), model.encoder.transform(quarter))
    picture = model.decoder.transform(latents.flatten(1)).reshape(2, 3, 8, 8)
    expected = torch.nn.functional.interpolate(picture, (32, 32), mode="bicubic")
    torch.testing.assert_close(model.decode(latents), expected, atol=1e-5, rtol=0)


def test_a_cutoff_takes_fine_patterns_out_of_the_picture_and_nothing_else(tmp_path):
    torch.manual_seed(0)
    plain = CodecModel(CONFIG).eval()
    options = {**SMALL, "decoder_cutoff": 0.5}
    filtered = CodecModel(dataclasses.replace(CONFIG, backbone_options=options)).eval()
    filtered.load_state_dict(plain.state_dict())  # the same weights
    for model in (plain, filtered):
        torch.nn.init.normal_(model.decoder.head[0].weight, generator=torch.Generator().manual_seed(0))
    latents = torch.randn(2, 6, 3)
    whole, kept = plain.decode(latents), filtered.decode(latents)
    place = torch.arange(32) + 0.5

    def amount(images, order):  # of the cosine with so many half periods across
        return (images * torch.cos(torch.pi * order * place / 32)).sum(3)

    for order in (0, 5, 12):
        torch.testing.assert_close(amount(kept, order).sum(2), amount(whole, order).sum(2), atol=1e-3, rtol=1e-3)
    for order in (16, 20, 31):
        assert amount(whole, order).abs().max() > 0.01
        assert amount(kept, order).abs().max() < 1e-3
    checkpoint.save(filtered, tmp_path / "filtered")
    assert torch.equal(checkpoint.load(tmp_path / "filtered").decode(latents), kept)
    assert section_of(filtered).digest != section_of(plain).digest
    with pytest.raises(CheckpointError, match="decoder_cutoff"):
        CodecModel(dataclasses.replace(CONFIG, backbone_options={**SMALL, "decoder_cutoff": 2.0}))


def test_bicubic_rows_sum_to_one():
    torch.testing.assert_close(bicubic(8, 32).sum(1), torch.ones(32))


def test_sizes_that_do_not_fit():
    with pytest.raises(CheckpointError, match="multiple of 16"):
        CodecModel(dataclasses.replace(CONFIG, image_size=40))
    with pytest.raises(CheckpointError, match="options"):
        CodecModel(dataclasses.replace(CONFIG, backbone_options={"wings": 2}))


def test_convolutions_come_from_another_backbone_but_not_the_head():
    plain = {name: value for name, value in SMALL.items() if "channels" not in name}
    edge = CodecModel(dataclasses.replace(CONFIG, tokens=4, backbone="edge", backbone_options=plain))
    model = CodecModel(CONFIG)
    transplant(edge, model)
    assert not same_numbers(edge, model)
    torch.testing.assert_close(model.encoder.stem[0].weight, edge.encoder.stem[0].weight)
    torch.testing.assert_close(model.decoder.ups[0].body[0][0].weight, edge.decoder.ups[0].body[0][0].weight)
    assert not model.decoder.head[0].weight.any()


def test_all_of_one_shape_is_carried_over():
    source, target = CodecModel(CONFIG), CodecModel(dataclasses.replace(CONFIG, codes=8, groups=3))
    transplant(source, target)
    assert same_numbers(source, target)
    torch.testing.assert_close(target.encoder.transform.weight, source.encoder.transform.weight)
