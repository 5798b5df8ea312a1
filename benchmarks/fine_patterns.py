"""How much of each frequency decoded faces have: patterns that a recogniser in the loss likes show as peaks.

For every frequency across the picture (stripes that stand upright), down it, and in any direction: power of decoded
faces over that of the originals. Whole faces have less of a frequency the higher it is, and so has a good decoder.

usage: python benchmarks/fine_patterns.py FACES.zip --crop 0.8 [--bundle A --bundle B] [--limit 120]
"""

from pathlib import Path

import click
import numpy as np
from stcq import Codec
from stcq.evaluation.faces import load_faces

ROOT = Path(__file__).parent.parent
STEP = 3  # frequencies that are taken together


def power(images: np.ndarray) -> np.ndarray:
    """Mean power (S, S) of the brightness of pictures (N, S, S, 3), by frequency down and across."""
    grey = images.astype(float).mean(-1)
    window = np.hanning(grey.shape[1])
    faded = (grey - grey.mean((1, 2), keepdims=True)) * window[:, None] * window
    return (np.abs(np.fft.fft2(faded)) ** 2).mean(0)


def parts(spectrum: np.ndarray) -> dict[str, list[float]]:
    """Power by frequency: across, down, and in rings."""
    size = len(spectrum)
    cycles = np.abs(np.fft.fftfreq(size) * size)
    ring = np.hypot(cycles[:, None], cycles)
    centres = range(2 * STEP, size // 2, STEP)
    near = [slice(k - STEP // 2, k + STEP // 2 + 1) for k in centres]
    return {
        "across": [float(spectrum[:STEP, band].sum()) for band in near],
        "down": [float(spectrum[band, :STEP].sum()) for band in near],
        "any": [float(spectrum[np.abs(ring - k) < STEP / 2].sum()) for k in centres],
    }


@click.command()
@click.argument("faces", type=click.Path(path_type=Path, exists=True))
@click.option("--crop", default=1.0, show_default=True)
@click.option(
    "--bundle", "bundles", type=click.Path(path_type=Path), multiple=True, default=[ROOT / "bundles" / "face-65"]
)
@click.option("--limit", default=120, show_default=True)
def main(faces: Path, crop: float, bundles: tuple[Path, ...], limit: int) -> None:
    for bundle in bundles:
        with Codec.load(bundle, variant="onnx-fp32") as codec:
            size = codec.info.image_size
            images = load_faces(faces, size, crop, limit).images
            decoded = codec.decode_batch(codec.encode_batch(list(images)))
            click.echo(
                f"{bundle} ({codec.info.digest[:8]}), {len(images)} faces; cycles in the picture's {size} pixels:"
            )
        before, after = parts(power(images)), parts(power(decoded))
        click.echo("        " + "".join(f"{k:5}" for k in range(2 * STEP, size // 2, STEP)))
        for name, values in after.items():
            ratios = np.array(values) / before[name]
            click.echo(f"{name:8}" + "".join(f"{ratio:5.2f}" for ratio in ratios))


if __name__ == "__main__":
    main()
