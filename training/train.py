"""`stcq train`: all stages of a recipe, each starting from the checkpoint that the one before it left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import TrainingError
from ..models import checkpoint
from ..models.codec import CodecModel
from ..models.transplant import transplant
from ..runtime.sources import open_source
from .books import books_stage
from .data import Faces
from .losses import ReconstructionLoss
from .recipe import Recipe
from .recognizer import Recognizer
from .run import Run
from .stage import Material, Stage

STAGES = ("base", "books", "decoder")


def train(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    *,
    validation: Path | None = None,
    recognizer: Path | None = None,
    stages: Sequence[str] = STAGES,
    init: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
) -> Path:
    """Run the stages of a recipe and return the last checkpoint's folder.

    Args:
        data: folders or zips of face pictures.
        out: the run directory; one sub-folder per finished stage is a checkpoint.
        validation: pictures of other people, for the figures in the log.
        recognizer: ONNX face recogniser for the identity and feature losses.
        stages: some of "base", "books", "decoder", in this order.
        init: a checkpoint to start from: the base stage takes its encoder and decoder, a later first stage all of it.
        resume: go on after an interruption; finished stages are not repeated.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads for torch.

    Raises:
        TrainingError: data, recipe or run directory unusable, or the loss became NaN.
    """
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    material = _material(recipe, data, validation, recognizer, pick_device(device))
    run = Run(out, recipe, resume)
    last = None
    for stage in STAGES:
        folder = run.checkpoint(stage)
        if stage in stages and not (resume and (folder / "config.json").exists()):
            model = _run_stage(stage, recipe, material, run, last or init)
            provenance = {"stage": stage, "data": [Path(d).name for d in data], "recipe": recipe.to_dict()}
            provenance |= {"init": checkpoint.digest(init)} if init else {}
            checkpoint.save(model, folder, provenance)
            run.drop_state(stage)
        if (folder / "config.json").exists():
            last = folder
    if last is None:
        raise TrainingError(f"nothing to do: {out} holds no checkpoint and no stage was asked for")
    return last


def _run_stage(stage: str, recipe: Recipe, material: Material, run: Run, last: Path | None) -> CodecModel:
    """One stage from the checkpoint `last` to a finished model."""
    if stage == "base":
        options = recipe.codec.backbone_options | recipe.base_blocks
        model = CodecModel(dataclasses.replace(recipe.codec, groups=1, backbone_options=options))
        if last is not None:
            transplant(checkpoint.load(last), model)
        return _gradient_stage(stage, model, recipe, material, run)
    if last is None:
        raise TrainingError(f"the {stage} stage needs a finished stage before it; run the base stage or give --init")
    model = checkpoint.load(last)
    if stage == "books":
        return books_stage(model, recipe.codec, recipe.books, material, run)
    return _gradient_stage(stage, model, recipe, material, run)


def _gradient_stage(name: str, model: CodecModel, recipe: Recipe, material: Material, run: Run) -> CodecModel:
    stage = Stage(name, model, recipe.base if name == "base" else recipe.decoder, material, run)
    stage.restore()
    return stage.fit()


def _material(
    recipe: Recipe, data: Sequence[Path], validation: Path | None, recognizer: Path | None, device: torch.device
) -> Material:
    """Open the pictures and the recogniser."""
    faces = Faces([open_source(path) for path in data], recipe.codec.image_size, recipe.data)
    found = Recognizer(recognizer, recipe.loss) if recognizer else None
    loss = ReconstructionLoss(recipe.loss, found).to(device)
    return Material(
        faces, open_source(validation) if validation else None, loss, device, recipe.seed, has_fast_bfloat16(device)
    )


def pick_device(name: str) -> torch.device:
    """The torch device of a name; "auto" takes a GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingError("--device cuda: torch sees no GPU here; use --device cpu or install a CUDA build of torch")
    return torch.device(name)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32 on this device (CPU: only with native bf16 instructions)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
