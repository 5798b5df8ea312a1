"""The router losses against their formulas, and what each of them rewards."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from stcq.models.codec import CodecModel
from stcq.models.config import CodecConfig
from stcq.training.base_books import BaseBooks
from stcq.training.engine import open_fabric
from stcq.training.losses import ReconstructionLoss, lowpass, router_losses
from stcq.training.objective import Objective
from stcq.training.options import LossOptions, StageOptions
from torch import Tensor, nn


def test_formulas() -> None:
    scores, errors = torch.randn(6, 4), torch.rand(6, 4) + 0.5
    g = scores.softmax(1)
    quality = sum((g[b, m] * (errors[b, m] - errors[b].mean())) for b in range(6) for m in range(4)) / 6 / errors.mean()
    entropy = sum(g.mean(0)[m] * g.mean(0)[m].log() for m in range(4))
    decisive = -sum(g[b, m] * g[b, m].log() for b in range(6) for m in range(4)) / 6
    for found, wanted in zip(router_losses(scores, errors), (quality, entropy, decisive), strict=True):
        assert found.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_what_is_rewarded() -> None:
    errors = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    right, wrong = torch.tensor([[9.0, 0.0], [0.0, 9.0]]), torch.tensor([[0.0, 9.0], [9.0, 0.0]])
    one_group, unsure = torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.zeros(2, 2)
    assert router_losses(right, errors)[0] < router_losses(unsure, errors)[0] < router_losses(wrong, errors)[0]
    assert router_losses(right, errors)[1] < router_losses(one_group, errors)[1]
    assert router_losses(right, errors)[2] < router_losses(unsure, errors)[2]


def test_very_sure_routers_stay_finite() -> None:
    for value in router_losses(torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True), torch.ones(1, 3)):
        assert torch.isfinite(value)


class Eyes(nn.Module):
    """A recogniser of mean colours in four quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        small = nn.functional.adaptive_avg_pool2d(images, 2) * self.scale
        return small.flatten(1), [small]


class FineEyes(Eyes):
    """A recogniser of how much neighbours differ, of which the parts of the picture have more or less."""

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        return super().forward(images.diff(dim=-1).abs() ** 2)


def small_codec() -> CodecModel:
    torch.manual_seed(0)
    return CodecModel(CodecConfig(tokens=8, codes=7, dim=3, image_size=32))


def test_noise_is_on_the_decoded_picture_alone_and_fixed_by_the_seed() -> None:
    plain, noisy = (ReconstructionLoss(LossOptions(noise=noise), None) for noise in (0.0, 0.1))
    images = torch.full((2, 3, 32, 32), 0.5)
    assert torch.equal(plain.disturb(images, 1), images)
    spreads = [float(noisy.disturb(images, seed).std()) for seed in range(40)]
    assert 0 <= min(spreads) < 0.02
    assert 0.08 < max(spreads) < 0.105
    assert torch.equal(noisy.disturb(images, 3), noisy.disturb(images, 3))
    loss = ReconstructionLoss(LossOptions(l1=0, mse=0, features=0, identity=1, noise=0.5), Eyes())  # type: ignore[arg-type]
    with_noise = loss(images, images, torch.ones(2, 1, 32, 32), seed=3)[1]["identity"]
    assert float(with_noise) > 0


@pytest.mark.parametrize(("period", "passes"), [(16, 1.0), (6.4, 1.0), (4.6, 0.0), (2.0, 0.0)])
def test_a_cutoff_hides_fine_stripes_from_the_recogniser(period: float, passes: float) -> None:
    across = torch.arange(128) / period
    stripes = (0.5 + 0.3 * torch.cos(2 * torch.pi * across)).expand(2, 3, 128, 128)
    found = lowpass(stripes, 0.43)[..., 32:96, 32:96]
    expected = 0.5 + passes * (stripes[..., 32:96, 32:96] - 0.5)
    assert torch.allclose(found, expected, atol=0.02)


def test_a_cutoff_changes_what_the_recogniser_sees_of_the_decoded_picture_alone() -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    options = LossOptions(l1=0, mse=0, features=0, identity=1)
    whole, filtered = (
        ReconstructionLoss(dataclasses.replace(options, cutoff=cutoff), FineEyes())  # type: ignore[arg-type]
        for cutoff in (0.0, 0.3)
    )
    images[..., 16:] *= 0.3
    weights = torch.ones(2, 1, 32, 32)
    assert float(whole(images, images, weights)[1]["identity"]) == pytest.approx(0, abs=1e-6)
    assert float(filtered(images, images, weights)[1]["identity"]) > 1e-3
    assert float(filtered(lowpass(images, 0.1), lowpass(images, 0.1), weights)[1]["identity"]) < 1e-3


def test_a_window_is_the_same_for_both_and_moves() -> None:
    loss = ReconstructionLoss(LossOptions(jitter=0.2), None)
    windows = {(w[0].start, w[0].stop, w[1].start) for w in (loss.window(100, seed) for seed in range(50))}
    assert len(windows) > 20
    assert all(top >= 0 and bottom <= 100 and bottom - top >= 80 for top, bottom, _ in windows)
    assert ReconstructionLoss(LossOptions(), None).window(100, 3) == (slice(0, 100), slice(0, 100))


def test_nested_and_coarse_parts_of_a_batch() -> None:
    model, options = small_codec(), StageOptions(nested=0.5, coarse=0.25, coarse_codes=2)
    books = BaseBooks(model, options, open_fabric("cpu"))
    latents = torch.randn(64, 8, 3)
    books.start(latents, 0)
    codes, error = books(latents[:8], 0, update=False)
    first = torch.arange(8) % 2 == 0  # two tokens in each of four cells
    assert (codes[:4, ~first] == 0).all()
    assert (codes[4:, ~first] != 0).any()
    coarse = {tuple(c.tolist()) for c in books.averages["coarse"].books.weight[0, 0].detach()}
    assert all(min((codes[i, 0] - torch.tensor(c)).abs().max() for c in coarse) < 1e-6 for i in range(2))
    assert error[:2].mean() > error[2:].mean()
    assert set(books.views()) == {"_nested", "_coarse"}


def test_a_probe_teaches_the_encoder_and_leaves_the_codec_alone() -> None:
    model = small_codec()
    loss = ReconstructionLoss(LossOptions(l1=0, mse=0, identity=0, features=0, probe=1.0), Eyes())  # type: ignore[arg-type]
    objective = Objective(model, loss, StageOptions(), BaseBooks(model, StageOptions(), open_fabric("cpu")))
    assert objective.probe is not None
    total, _, parts = objective(torch.rand(4, 3, 32, 32), torch.ones(4, 1, 32, 32), True, 0)
    total.backward()
    assert float(parts["probe"]) == pytest.approx(float(total.detach()), abs=0.1)  # and the commitment
    assert model.encoder.stem[0].weight.grad.abs().sum() > 0
    assert not any("probe" in name for name in model.state_dict())
