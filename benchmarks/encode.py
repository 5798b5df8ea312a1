"""Encoding one face with a bundle: against its bare graph (the runtime's overhead), torch eager and torch.compile.

usage: python benchmarks/encode.py [--bundle bundles/face-65 --checkpoint checkpoints/face-65 --threads 1 --rounds 100]
"""

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from interleave import interleave, table
from numpy.typing import NDArray
from stcq import Codec
from stcq.export.rounding import rounded
from stcq.models import checkpoint as checkpoints
from stcq.profiling.pictures import example
from stcq.runtime.images import open_image, prepare

ROOT = Path(__file__).parent.parent


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), default=ROOT / "bundles" / "face-65")
@click.option("--checkpoint", type=click.Path(path_type=Path), default=ROOT / "checkpoints" / "face-65")
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=100, show_default=True)
@click.option("--no-compile", is_flag=True, help="Leave torch.compile out (it needs a C++ compiler).")
def main(bundle: Path, checkpoint: Path, threads: int, rounds: int, no_compile: bool) -> None:
    torch.set_num_threads(threads)
    stored = Codec.load(bundle).bundle.manifest.provenance
    model = rounded(checkpoints.load(checkpoint), "fp32", stored.get("codebooks", "fp32"))  # its books as the bundle's
    picture = open_image(example())
    functions = {}
    for variant in Codec.load(bundle).bundle.manifest.variants:
        codec = Codec.load(bundle, variant=variant.name, threads=threads)
        face = prepare(picture, codec.info.image_size)
        functions |= {
            f"{variant.name}: bare graph": bare_graphs(codec, face),
            f"{variant.name}: aligned face to packet": lambda codec=codec, face=face: codec.encode(face),
            f"{variant.name}: 256 x 256 picture to packet": lambda codec=codec: codec.encode(picture),
        }
    image = torch.from_numpy(face.copy()).permute(2, 0, 1)[None].float() / 255  # (1, 3, S, S)
    last = image.to(memory_format=torch.channels_last)
    tokens = torch.inference_mode()(model.tokens)
    functions["torch eager"] = lambda: tokens(image)
    if not no_compile:
        compiled = torch.compile(lambda images: model.codebooks.select(model.encode(images)))
        functions["torch.compile"] = lambda: torch.inference_mode()(compiled)(image)
        functions["torch.compile, channels last"] = lambda: torch.inference_mode()(compiled)(last)
    with torch.inference_mode():
        group, indices = model.tokens(image)
    found = Codec.load(bundle, variant="onnx-fp32").tokens(face)
    assert found[0] == int(group)
    assert np.mean(found[1] == indices[0].numpy()) > 0.98
    times = interleave(functions, rounds)
    table(times, "torch eager" if no_compile else "torch.compile")
    for name in [name.removesuffix(": bare graph") for name in functions if name.endswith("bare graph")]:
        bare = np.array(times[f"{name}: bare graph"])
        for kind in ("aligned face", "256 x 256 picture"):
            over = np.array(times[f"{name}: {kind} to packet"]) - bare
            share = np.median(over) / np.median(bare)
            click.echo(f"{name}: overhead of {kind}: {np.median(over):.3f} ms, {share:.1%} of the graph")


def bare_graphs(codec: Codec, face: NDArray[np.uint8]) -> Callable[[], object]:
    """What a variant computes for a face (S, S, 3), without the runtime: one graph, or encoder and quantizer (int8)."""
    feeds = {"image": face[None]}
    if "tokenizer" in codec.variant.graphs:
        whole = codec.session("tokenizer")
        return lambda: whole._run(feeds)
    encoder, quantizer = codec.session("encoder"), codec.session("quantizer")
    return lambda: quantizer._run({"latents": encoder._run(feeds)["latents"]})


if __name__ == "__main__":
    main()
