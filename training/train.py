"""`stcq train`: all stages of a recipe, each starting from the checkpoint that the one before it left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import click
import torch
from lightning_fabric import Fabric

from ..errors import CheckpointError, TrainingError
from ..models import checkpoint, eigen
from ..models.codec import CodecModel
from ..models.config import BooksKind
from ..models.transplant import enough_numbers, same_numbers, transplant
from ..runtime.sources import open_source
from .books import BooksStage
from .data import Faces
from .eigenfaces import carry_over, start_transform
from .engine import open_fabric
from .latents import check_enough
from .losses import ReconstructionLoss
from .material import Material
from .options import BooksOptions, StageOptions
from .rebalance import rebalance
from .recipe import Recipe
from .recognizer import open_recognizers
from .resident import ResidentFaces
from .run import Run
from .stage import Stage
from .validate import measure

PICTURES = 12_000  # of each source at most, for the start of whole-face tokens
STAGES = ("base", "shared", "specific", "decoder")  # 0 .. 3; the paper's are 1 .. 3


def train(
    recipe: Recipe,
    data: Sequence[Path],
    out: Path,
    *,
    validation: Path | None = None,
    recognizers: Sequence[Path] = (),
    stages: Sequence[str] = STAGES,
    init: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    devices: int = 1,
    compiled: bool | None = None,
    resident: bool | None = None,
    threads: int | None = None,
) -> Path:
    """Run the stages of a recipe and return the last checkpoint's folder.

    Args:
        data: folders or zips of face pictures.
        out: the run directory; one sub-folder per finished stage is a checkpoint.
        validation: pictures of other people, for the figures in the log.
        recognizers: ONNX face recognisers for the identity and feature losses; of several the mean counts.
        stages: some of "base", "shared", "specific", "decoder", in this order.
        init: a checkpoint to start from: the base stage takes its encoder and decoder, a later first stage all of it.
        resume: go on after an interruption; finished stages are not repeated.
        device: "auto", "cpu" or "cuda".
        devices: how many of them; several start this command once for each.
        compiled: `torch.compile` in the gradient stages; None = on GPUs.
        resident: all pictures decoded in the device's memory; None = on GPUs.
        threads: CPU threads for torch.

    Raises:
        TrainingError: data, recipe or run directory unusable, `init` has other tokens than the recipe and no
            base stage is asked for, or the loss became NaN.
        CheckpointError: `init` is missing or damaged.
    """
    if threads:
        torch.set_num_threads(threads)
    fabric = open_fabric(device, devices)
    fabric.launch()
    torch.manual_seed(recipe.seed)
    material = _material(recipe, data, validation, recognizers, fabric)
    material.compiled = fabric.device.type == "cuda" if compiled is None else compiled
    torch.backends.cudnn.benchmark = True  # pictures of one size
    if fabric.device.type == "cuda" if resident is None else resident:
        material.resident = ResidentFaces(material.faces, fabric.device)
    pictures = sum(len(source.names) for source in material.faces.sources)
    kinds: tuple[BooksKind, ...] = ("shared", "specific")
    for kind in kinds:  # now, not after an hour of base training
        if kind in stages:
            options: BooksOptions = getattr(recipe, kind)
            count, config = min(options.limit, options.passes * pictures), recipe.codec.of_kind(kind)
            check_enough(count, config, start=options.start)
    if "base" in stages:
        _check_base(recipe)
    if init is not None:
        start = checkpoint.load(init)  # what is wrong is found before the run's folder is there
        if "base" not in stages and not resume:
            _check_start(start, recipe, init)
    run = Run(out, recipe, resume, writes=fabric.is_global_zero)
    last = None
    for stage in STAGES:
        folder = run.checkpoint(stage)
        fabric.barrier()  # all see the same finished stages
        finished = (folder / "config.json").exists()
        fabric.barrier()
        if stage in stages and not (resume and finished):
            model = _run_stage(stage, recipe, material, run, last or init)
            if model is not None and fabric.is_global_zero:
                provenance = {"stage": stage, "data": [Path(d).name for d in data], "recipe": recipe.to_dict()}
                provenance |= {"recognizers": [path.name for path in recognizers]} if recognizers else {}
                provenance |= {"init": checkpoint.digest(init)} if init else {}
                checkpoint.save(checkpoint.rounded(model) if recipe.half else model, folder, provenance)
                run.drop_state(stage)
            fabric.barrier()
        if (folder / "config.json").exists():
            last = folder
    if last is None:
        raise TrainingError(f"nothing to do: {out} holds no checkpoint and no stage was asked for")
    if run.unreadable.names:
        click.echo(f"{len(run.unreadable.names)} unreadable pictures skipped, see {out / 'unreadable.txt'}", err=True)
    return last


def _run_stage(stage: str, recipe: Recipe, material: Material, run: Run, last: Path | None) -> CodecModel | None:
    """One stage from the checkpoint `last` to a finished model; None where another process makes it."""
    torch.manual_seed(recipe.seed + STAGES.index(stage))  # a resumed run draws what an unbroken one does
    material.augment_by(recipe.data_of(stage))
    if stage == "base":
        model = _base_model(recipe)
        source = checkpoint.load(last) if last is not None else None
        if source is not None:
            transplant(source, model)
        if isinstance(model.encoder, eigen.Encoder) and run.load_state(stage) is None:
            _start_tokens(source, model, recipe, material)
        return _gradient_stage(stage, model, recipe, material, run)
    if last is None:
        raise TrainingError(f"the {stage} stage needs a finished stage before it; run the base stage or give --init")
    model = checkpoint.load(last)
    _check_start(model, recipe, last)
    if stage == "decoder":
        return _gradient_stage(stage, model, recipe, material, run)
    if not material.fabric.is_global_zero:  # minutes at most: one device does it, the others wait
        return None
    kind: BooksKind = "shared" if stage == "shared" else "specific"
    books = BooksStage(kind, model, recipe.codec, getattr(recipe, stage), material, run)
    books.restore()
    result = books.fit()
    if figures := measure(result, material, True, lambda rows: run.picture(stage, rows)):
        run.log(stage=stage, step=books.step, validation=figures)
        click.echo(f"{stage}: " + ", ".join(f"{k} {v:.4g}" for k, v in figures.items()))
    return result.cpu()


def _base_model(recipe: Recipe) -> CodecModel:
    """The model of the base stage, untrained."""
    options = recipe.codec.backbone_options | recipe.base_blocks
    return CodecModel(dataclasses.replace(recipe.codec.apart(1), backbone_options=options))


def _check_base(recipe: Recipe) -> None:
    """Raise TrainingError for a base model that cannot be made, or cannot grow into the codec after hours."""
    try:
        codec = CodecModel(recipe.codec.apart(1))
    except CheckpointError as error:
        raise TrainingError(f"[codec]: {error}") from error
    try:
        transplant(_base_model(recipe), codec)
    except CheckpointError as error:
        raise TrainingError(f"[base_blocks]: {error}") from error


def _check_start(start: CodecModel, recipe: Recipe, place: Path) -> None:
    """Raise TrainingError where a later stage would begin at a codec of other tokens, which only the base changes."""
    for name in ("tokens", "dim", "image_size"):
        found, wanted = getattr(start.config, name), getattr(recipe.codec, name)
        if found != wanted:
            raise TrainingError(
                f"{place} has {name} {found}, the recipe {wanted}; add --stage 0 or give another --init"
            )


def _start_tokens(source: CodecModel | None, model: CodecModel, recipe: Recipe, material: Material) -> None:
    """What the tokens of an `eigen` backbone are before the first step, from a source of any kind or none.

    Raises:
        TrainingError: too few pictures, or the recipe wants a balance and there is no recogniser.
    """
    recognizer = material.loss.recognizer
    if recipe.loss.balance and recognizer is None:
        raise TrainingError("the recipe's [loss] balance weighs a recogniser's embedding; give --recognizer")
    pictures = material.plain(PICTURES)
    model.to(pictures.device).eval()
    material.loss.to(pictures.device)
    if recipe.loss.balance and recognizer is not None and source is not None and enough_numbers(source, model):
        rebalance(source.to(pictures.device).eval(), model, pictures, recipe, recognizer)
    elif not same_numbers(source, model):
        encoder, decoder = cast(eigen.Encoder, model.encoder), cast(eigen.Decoder, model.decoder)
        start_transform(encoder, decoder, pictures, recipe, recognizer)
        if source is not None and source.config.backbone == model.config.backbone:
            carry_over(source.to(pictures.device), model)
    material.loss.to(material.device)


def _gradient_stage(name: str, model: CodecModel, recipe: Recipe, material: Material, run: Run) -> CodecModel:
    options: StageOptions = getattr(recipe, name)
    material.loss.options = options.weights(recipe.loss)
    stage = Stage(name, model, options, material, run)
    stage.restore()
    return stage.fit()


def _material(
    recipe: Recipe, data: Sequence[Path], validation: Path | None, recognizers: Sequence[Path], fabric: Fabric
) -> Material:
    """Open the pictures and the recognisers."""
    faces = Faces([open_source(path) for path in data], recipe.codec.image_size, recipe.data)
    loss = ReconstructionLoss(recipe.loss, open_recognizers(recognizers, recipe.loss)).to(fabric.device)
    return Material(faces, open_source(validation) if validation else None, loss, fabric, recipe.seed)
