"""The fp32 graphs of the onnx target with 3x3 convolutions in Winograd's form, against the same graphs plain.

usage: python benchmarks/winograd.py [--checkpoint checkpoints/face-65 --batches 1,8 --rounds 30]
"""

import tempfile
from pathlib import Path

import click
import numpy as np
from interleave import interleave, table
from stcq import Codec
from stcq.export.export import export
from stcq.export.request import Request
from stcq.profiling.pictures import example
from stcq.runtime.images import open_image, prepare

ROOT = Path(__file__).parent.parent


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), default=ROOT / "checkpoints" / "face-65")
@click.option("--batches", default="1,8", show_default=True)
@click.option("--rounds", default=30, show_default=True)
def main(checkpoint: Path, batches: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        codecs = {}
        for name, winograd in (("plain", False), ("Winograd", True)):
            export(checkpoint, Path(folder) / name, requests=[Request("onnx", winograd=winograd)])
            codecs[name] = Codec.load(Path(folder) / name, threads=1)
        face = prepare(open_image(example()), codecs["plain"].info.image_size)
        for batch in map(int, batches.split(",")):
            faces = np.repeat(face[None], batch, 0)
            tokens = dict(zip(("group", "indices"), codecs["plain"].tokens_batch(faces), strict=True))
            for graph, feeds in (("tokenizer", {"image": faces}), ("decoder", tokens)):
                sessions = {name: codec.session(graph) for name, codec in codecs.items()}
                times = interleave({name: lambda s=s, f=feeds: s.run(f) for name, s in sessions.items()}, rounds)
                click.echo(f"{graph}, batch {batch}, one thread")
                table(times, "plain")


if __name__ == "__main__":
    main()
