"""Seeded random weights of a published tokenizer, under its official names: a stand-in where no weights are at hand.

usage: python benchmarks/random_weights.py titok-s weights.safetensors [--seed 0]
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:  # torch takes 190 MB, and who imports this file may measure memory
    from stcq.models.backbones.base import Pretrained

TITOK = {"s": (512, 8, 8, 128), "b": (768, 12, 12, 64), "l": (1024, 24, 16, 32)}
NAMES = [*(f"titok-{size}" for size in TITOK), "maskgit-vqgan", "taming-vqgan", "codeformer"]


def tokenizer(name: str, seed: int = 0) -> tuple[Pretrained, int]:
    """A tokenizer of the released size with random weights, and its image size."""
    import torch
    from stcq.models.backbones import PRETRAINED

    torch.manual_seed(seed)
    kind = PRETRAINED["titok" if name.startswith("titok") else name.replace("-", "_")]
    fields, options = dict(kind.FIELDS), {}
    if name.startswith("titok"):
        width, layers, heads, fields["tokens"] = TITOK[name[-1]]
        options = {"width": width, "layers": layers, "heads": heads}
        options |= {f"decoder_{key}": value for key, value in options.items()}
    return kind(fields["image_size"], fields["tokens"], fields["dim"], **options), fields["image_size"]


@click.command()
@click.argument("name", type=click.Choice(NAMES))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
def main(name: str, out: Path, seed: int) -> None:
    from safetensors.torch import save_file

    made, _ = tokenizer(name, seed)
    save_file(made.state_dict(), out)
    print(f"{out}: {sum(p.numel() for p in made.parameters()) / 1e6:.1f} million random numbers")


if __name__ == "__main__":
    main()
