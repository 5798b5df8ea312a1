"""Seeded random weights of a published tokenizer, under its official names: a stand-in where no weights are at hand.

usage: python benchmarks/random_weights.py titok-s weights.safetensors [--seed 0]
"""

from pathlib import Path

import click
import torch
from safetensors.torch import save_file
from stcq.models.backbones import PRETRAINED

TITOK = {"s": (512, 8, 8, 128), "b": (768, 12, 12, 64), "l": (1024, 24, 16, 32)}
NAMES = [*(f"titok-{size}" for size in TITOK), "maskgit-vqgan", "taming-vqgan", "codeformer"]


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(name: str, out: Path, seed: int) -> None:
    torch.manual_seed(seed)
    kind = PRETRAINED[name.replace("-", "_") if not name.startswith("titok") else "titok"]
    fields, options = dict(kind.FIELDS), {}
    if name.startswith("titok"):
        width, layers, heads, fields["tokens"] = TITOK[name[-1]]
        options = {"width": width, "layers": layers, "heads": heads}
        options |= {f"decoder_{key}": value for key, value in options.items()}
    tokenizer = kind(fields["image_size"], fields["tokens"], fields["dim"], **options)
    save_file(tokenizer.state_dict(), out)
    print(f"{out}: {sum(p.numel() for p in tokenizer.parameters()) / 1e6:.1f} million random numbers")


if __name__ == "__main__":
    main()
