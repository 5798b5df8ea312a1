"""The router losses against their formulas, and what each of them rewards."""

from __future__ import annotations

import pytest
import torch
from stcq.training.losses import router_losses


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
