"""Which parameters of a codec a stage trains, and at what rate each."""

from __future__ import annotations

from typing import Any

from torch import nn


def choose_trained(model: nn.Module, trained: list[nn.Module]) -> list[tuple[str, nn.Parameter]]:
    """Switch gradients on for the parameters of some modules, off for all others; their names in the model."""
    chosen = {id(p) for module in trained for p in module.parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    return [(name, parameter) for name, parameter in model.named_parameters() if id(parameter) in chosen]


def learning_rates(model: nn.Module) -> dict[str, float]:
    """Factors on the learning rate by prefix of a parameter's name, as a model's modules give them in `rates`."""
    found: dict[str, float] = {}
    for name, module in model.named_modules():
        rates: dict[str, float] = getattr(module, "rates", {})
        found |= {f"{name}.{part}.": factor for part, factor in rates.items()}
    return found


def parameter_groups(
    named: list[tuple[str, nn.Parameter]], rates: dict[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """Groups for the optimiser by factor on the rate; weights of one axis do not decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        factor = next((factor for prefix, factor in rates.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((factor, parameter.dim() > 1), []).append(parameter)
    return [
        {"params": members, "weight_decay": weight_decay if decays else 0.0, "factor": factor}
        for (factor, decays), members in groups.items()
    ]
