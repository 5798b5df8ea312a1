"""PSNR and IDS of a bundle on a set of faces.

usage: python benchmarks/quality.py FACES.zip RECOGNIZER.onnx [--bundle B] [--policy nn|router] [--grid G.png]
"""

from pathlib import Path

import click
import numpy as np
from PIL import Image
from stcq.evaluation.quality import Recognizer, crops, measure
from stcq.runtime.codec import Codec
from stcq.runtime.sources import open_source


@click.command()
@click.argument("faces", type=click.Path(exists=True, path_type=Path))
@click.argument("recognizer", type=click.Path(exists=True, path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path))
@click.option("--crop", default=0.8, show_default=True, help="Centre crop as a fraction of the picture.")
@click.option("--policy", default="nn", show_default=True)
@click.option("--limit", type=int)
@click.option("--grid", type=click.Path(path_type=Path), help="Save originals over decoded faces here.")
def main(
    faces: Path, recognizer: Path, bundle: Path | None, crop: float, policy: str, limit: int | None, grid: Path | None
) -> None:
    with Codec.load(bundle, policy=policy) as codec:
        images = np.stack(list(crops(open_source(faces), codec.info.image_size, crop, limit)))
        quality = measure(codec, images, Recognizer.load(recognizer))
        print(
            f"{codec.info.name} {policy}: {quality.faces} faces, {quality.payload_bytes} + 9 bytes, "
            f"PSNR {quality.psnr} dB, IDS {quality.ids}"
        )
        if grid:
            picks = images[np.linspace(0, len(images) - 1, 24).astype(int)]
            decoded = codec.decode_batch(codec.encode_batch(list(picks)))
            rows = [
                np.concatenate(list(part), 1)
                for half in (slice(0, 12), slice(12, 24))
                for part in (picks[half], decoded[half])
            ]
            Image.fromarray(np.concatenate(rows)).save(grid)


if __name__ == "__main__":
    main()
