"""Encoding one face: stcq against JPEG, WebP, AVIF, JPEG 2000 and JPEG XL of the same 128 x 128 picture.

The classical codecs write at quality 30, several times the bytes of a packet; at the packet's size they need a search
over scales and qualities (evaluation/peers.py), and most cannot be that small at all.

usage: python benchmarks/encode_peers.py [--threads 1 --rounds 100]
"""

import click
import numpy as np
from interleave import interleave, table
from stcq import Codec
from stcq.evaluation.peers import FORMATS, available, write
from stcq.runtime.demo_face import demo_face

QUALITY = 30


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=100, show_default=True)
def main(threads: int, rounds: int) -> None:
    face, codec = demo_face(), Codec.load(threads=threads)
    array = np.asarray(face)
    functions, sizes = {"stcq": lambda: codec.encode(array)}, {"stcq": len(codec.encode(array))}
    for name in available():
        title = FORMATS[name].title
        functions[title] = lambda name=name: write(face, name, QUALITY)
        sizes[title] = len(functions[title]())
    table(interleave(functions, rounds), "stcq")
    click.echo(", ".join(f"{name} {size} bytes" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
