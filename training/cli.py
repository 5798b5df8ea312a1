"""The `stcq train` and `stcq fit-codebooks` commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ..runtime.options import crop_option, memory_options, router_steps_option, start_option
from ..runtime.parts import part


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Folder or zip of faces; repeat for several.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run directory.")
@click.option("--val", type=click.Path(path_type=Path), help="Pictures of other people, for the figures in the log.")
@click.option(
    "--recognizer",
    "recognizers",
    type=click.Path(path_type=Path),
    multiple=True,
    help="ONNX face recogniser for the identity loss, FILE or FILE:arcface (mean, std 0.5); repeat for several.",
)
@click.option(
    "--stage",
    "stages",
    type=click.Choice(["0", "1", "2", "3", "base", "shared", "specific", "decoder"]),
    multiple=True,
    help="Only these stages: 0 base, 1 shared books, 2 token-specific books, 3 decoder.",
)
@click.option("--init", type=click.Path(path_type=Path), help="Checkpoint to start from.")
@click.option("--resume", is_flag=True, help="Go on after an interruption.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--devices", type=click.IntRange(1), default=1, show_default=True, help="GPUs (or CPU processes).")
@click.option("--compile/--no-compile", "compiled", default=None, help="torch.compile.  [default: on a GPU]")
@click.option(
    "--resident/--no-resident",
    default=None,
    help="Keep all pictures decoded in the device's memory.  [default: on a GPU]",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
def train(
    recipe: Path,
    data: Sequence[Path],
    out: Path,
    val: Path | None,
    recognizers: Sequence[Path],
    stages: Sequence[str],
    init: Path | None,
    resume: bool,
    device: str,
    devices: int,
    compiled: bool | None,
    resident: bool | None,
    threads: int | None,
) -> None:
    """Train a codec: base tokenizer, switchable codebooks, decoder."""
    module = part("training.train")
    part("training.memory").keep_memory()
    last = module.train(
        part("training.recipe").read_recipe(recipe),
        data,
        out,
        validation=val,
        recognizers=recognizers,
        stages=[module.STAGES[int(s)] if s.isdigit() else s for s in stages] or module.STAGES,
        init=init,
        resume=resume,
        device=device,
        devices=devices,
        compiled=compiled,
        resident=resident,
        threads=threads,
    )
    click.echo(f"checkpoint: {last}")


@click.command("fit-codebooks")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--images", type=click.Path(path_type=Path), multiple=True, required=True, help="Folder or zip; repeat.")
@click.option("--groups", type=click.IntRange(1), required=True, help="M, codebook groups.")
@click.option("--codes", type=click.IntRange(1), required=True, help="K, codewords in a book.")
@click.option(
    "--switches",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="S: runs of tokens that choose apart among the S-th root of M sets of books.",
)
@memory_options
@click.option("--books", type=click.Choice(["specific", "shared"]), default="specific", show_default=True)
@click.option(
    "--passes", type=click.IntRange(1), default=2, show_default=True, help="Augmented passes over the pictures."
)
@click.option("--limit", type=click.IntRange(1), default=60_000, show_default=True, help="Most latents to keep.")
@click.option("--iterations", type=click.IntRange(1), default=12, show_default=True, help="Lloyd iterations.")
@click.option(
    "--shuffle",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With a memory: latents of an iteration, each token from another one (for uncorrelated tokens); 0 = all.",
)
@click.option(
    "--turn",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="With --shuffle: most radians by which a token turns towards another one, for more faces than there are.",
)
@router_steps_option
@start_option
@crop_option
@click.option("--seed", default=0, show_default=True)
@click.option("--allow-repeats", is_flag=True, help="Accept fewer pictures than codewords, to try sizes and speed.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The new checkpoint's folder.")
def fit_codebooks(
    checkpoint: Path,
    images: Sequence[Path],
    groups: int,
    codes: int,
    switches: int,
    memory: int | None,
    memory_sets: int | None,
    memory_weights: tuple[int, ...] | None,
    books: str,
    passes: int,
    limit: int,
    iterations: int,
    shuffle: int,
    turn: float,
    router_steps: int,
    start: str,
    crop: float,
    seed: int,
    allow_repeats: bool,
    out: Path,
) -> None:
    """Fit switchable codebooks to an existing tokenizer's latents, without gradients."""
    recipe = part("training.recipe")
    lloyd = {"iterations": iterations, "start": start, "shuffle": shuffle, "turn": turn}
    options = recipe.BooksOptions(passes=passes, limit=limit, steps=router_steps, **lloyd)
    data = recipe.DataOptions(crop=crop)
    part("training.memory").keep_memory()
    fit = part("training.fit").fit_checkpoint
    sizes = {"groups": groups, "codes": codes, "books": books, "switches": switches, "memory": memory or 0}
    sizes |= {"memory_sets": memory_sets or 0, "memory_weights": memory_weights or ()}
    fit(checkpoint, images, out, data=data, options=options, seed=seed, allow_repeats=allow_repeats, **sizes)
    click.echo(f"checkpoint: {out}")
