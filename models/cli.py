"""The `stcq import` and `stcq info` commands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ..errors import CheckpointError
from ..runtime.options import json_option
from ..runtime.parts import part
from .config import BooksKind, CodecConfig
from .presets import PRESETS, Cost, cost


def _settings(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, Any]:
    """NAME=VALUE pairs, values as JSON where they are JSON."""
    pairs = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE")
        try:
            pairs[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            pairs[name.replace("-", "_")] = value
    return pairs


@click.command("import")
@click.argument("backbone")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="Folder of the new checkpoint.")
@click.option("--trust-pickle", is_flag=True, help="Read .bin, .ckpt, .pth and .pt, which are pickles.")
@click.option("--image-size", type=click.IntRange(1), help="Side in pixels (default: what the weights were made for).")
@click.option(
    "--set",
    "settings",
    multiple=True,
    callback=_settings,
    metavar="NAME=VALUE",
    help="A size that the weights do not tell; repeat.",
)
@json_option
def import_(
    backbone: str,
    weights: Path,
    out: Path,
    trust_pickle: bool,
    image_size: int | None,
    settings: dict[str, Any],
    as_json: bool,
) -> None:
    """Make a checkpoint from the official WEIGHTS of a tokenizer.

    BACKBONE is codeformer, maskgit_vqgan, taming_vqgan or titok, or module:Class for one of your own
    (docs/backbones.md). The official codebook becomes one group with one book shared by all tokens.
    """
    if image_size is not None:
        settings = {**settings, "image_size": image_size}
    module = part("models.importing")
    done = module.import_weights(backbone, weights, out, trust_pickle=trust_pickle, settings=settings)
    if as_json:
        click.echo(json.dumps(done.to_dict(), indent=2))
        return
    if done.ignored:
        click.echo(f"left out {len(done.ignored)} tensors that only training needed: {module.some(done.ignored)}")
    config, price = done.config, cost(done.config)
    click.echo(
        f"{config.backbone}: {done.tensors} tensors, {config.image_size} x {config.image_size}, T {config.tokens}, "
        f"K {config.codes}, d {config.dim}: {price.payload_bytes} bytes a face\ncheckpoint: {out}"
    )


@click.command()
@click.argument("source", required=False)
@click.option("--presets", "all_presets", is_flag=True, help="All of the paper's operating points.")
@json_option
def info(source: str | None, all_presets: bool, as_json: bool) -> None:
    """Bits, bytes, codebook sizes and memory traffic of SOURCE: a preset, a checkpoint or a bundle."""
    if all_presets == (source is not None):
        raise click.UsageError("give a SOURCE or --presets")
    configs = PRESETS if source is None else {source: find(source)}
    costs = {name: (config, cost(config)) for name, config in configs.items()}
    if as_json:
        facts = {name: {"codec": c.to_dict(), "cost": p.to_dict()} for name, (c, p) in costs.items()}
        click.echo(json.dumps(facts, indent=2))
    else:
        click.echo(table(costs))


def find(source: str) -> CodecConfig:
    """The codec of a preset, a checkpoint folder, or a bundle.

    Raises:
        CheckpointError: none of them.
        BundleError: a bundle that is damaged.
    """
    if source in PRESETS:
        return PRESETS[source]
    path = Path(source)
    if not path.exists():
        raise CheckpointError(f"{source} is no preset, checkpoint or bundle; presets: {', '.join(PRESETS)}")
    if (path / "config.json").is_file():
        config: CodecConfig = part("models.checkpoint").read_config(path)[0]
        return config
    module = part("runtime.bundle")
    bundle = module.Bundle(path)
    codec = bundle.manifest.codec
    stored = part("runtime.safetensors").load_file(bundle.path / module.CODEBOOKS)["codebooks"].shape[1]
    bundle.close()
    books: BooksKind = "shared" if stored < codec.tokens else "specific"
    sizes = codec.tokens, codec.codes, codec.groups, codec.dim, books, codec.image_size, codec.backbone
    memory = {"memory_sets": codec.memory_sets, "memory_weights": codec.memory_weights}
    return CodecConfig(*sizes, switches=codec.switches, memory=codec.memory, **memory)


def table(costs: dict[str, tuple[CodecConfig, Cost]]) -> str:
    """The costs as aligned columns; sizes in millions of bytes."""
    head = [
        "",
        "T",
        "M",
        "K",
        "d",
        "bits",
        "bytes",
        "packet",
        "bpp",
        "fp32 MB",
        "fp16 MB",
        "int8 MB",
        "NN MB",
        "router MB",
    ]
    rows = [head]
    for name, (config, price) in costs.items():
        numbers = [config.tokens, config.groups, config.codes, config.dim, price.bits, price.payload_bytes]
        sizes = [*price.codebook_bytes.values(), price.nn_bytes, price.router_bytes]
        cells = [name, *map(str, [*numbers, price.packet_bytes]), f"{price.bpp:.4f}"]
        rows.append([*cells, *(f"{size / 1e6:.1f}" for size in sizes)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [[row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))] for row in rows]
    note = "bytes: payload of a face; fp32, fp16, int8: all codebooks; NN, router: codebook bytes read for one face"
    return "\n".join([*("  ".join(line) for line in lines), note])
