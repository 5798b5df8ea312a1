"""Where training runs: one CPU, one GPU or several, through Lightning Fabric."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric

from ..errors import TrainingError


def open_fabric(device: str = "auto", devices: int = 1) -> Fabric:
    """Fabric on a device of the name "auto", "cpu" or "cuda", in bf16 autocast where the hardware is fast at it.

    With several devices the present command is started once for each (DistributedDataParallel); code after
    `fabric.launch()` runs in all of them.

    Raises:
        TrainingError: the device is not there, or fewer than `devices`.
    """
    place = pick_device(device)
    if place.type == "cuda" and devices > torch.cuda.device_count():
        raise TrainingError(f"--devices {devices}: torch sees {torch.cuda.device_count()} GPUs here; give fewer")
    return Fabric(
        accelerator=place.type,
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        precision="bf16-mixed" if has_fast_bfloat16(place) else "32-true",
    )


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" takes a GPU where there is one.

    Raises:
        TrainingError: it is not there, or none of "auto", "cpu" and "cuda".
    """
    if name not in ("auto", "cpu", "cuda"):
        raise TrainingError(f"--device {name} is unknown; use auto, cpu or cuda")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch sees no GPU here; use --device cpu or install a CUDA build of torch")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32 on this device (CPU: only with native bf16 instructions)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
