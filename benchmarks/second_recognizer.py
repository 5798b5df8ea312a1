"""Verification of decoded faces by a recogniser that is in no loss: dlib's ResNet.

It comes as packages, 100 MB, for an environment of its own:
    pip install dlib-bin face_recognition_models "setuptools<80"
Faces are aligned by dlib's five points, found anew in every picture, as its users would.

usage: python benchmarks/second_recognizer.py FACES.zip [--bundle bundles/face-65]     (some three minutes)
"""

import zipfile
from pathlib import Path

import click
import dlib
import face_recognition_models as weights
import numpy as np
from stcq import Codec
from stcq.evaluation.means import Mean
from stcq.evaluation.pairs import make_pairs, people_of
from stcq.evaluation.verification import verify_pairs
from stcq.runtime.images import open_image

ROOT = Path(__file__).parent.parent
THRESHOLD = 0.6  # dlib's, for one person


def descriptors(images: list[np.ndarray]) -> np.ndarray:
    """128 numbers of each aligned face (128, 128, 3) uint8: (N, 128) float64."""
    network = dlib.face_recognition_model_v1(weights.face_recognition_model_location())
    points = dlib.shape_predictor(weights.pose_predictor_five_point_model_location())
    face = dlib.rectangle(40, 40, 152, 152)  # in the padded picture
    found = []
    for image in images:
        padded = np.ascontiguousarray(np.pad(image, ((24, 40), (32, 32), (0, 0)), mode="edge"))
        found.append(np.array(network.compute_face_descriptor(padded, points(padded, face), 0, 0.25)))
    return np.stack(found)


@click.command()
@click.argument("faces", type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", type=click.Path(path_type=Path), default=ROOT / "bundles" / "face-65")
def main(faces: Path, bundle: Path) -> None:
    images, names = [], []
    with zipfile.ZipFile(faces) as archive, Codec.load(bundle, variant="onnx-fp32") as codec:
        for name in sorted(name for name in archive.namelist() if name.endswith(".webp")):
            images.append(np.asarray(open_image(archive.read(name)).convert("RGB"))[16:144, 16:144])
            names.append(name)
        decoded = [np.asarray(image) for image in codec.decode_batch(codec.encode_batch(images))]
    original, coded = descriptors(images), descriptors(decoded)
    pairs = make_pairs(names)
    click.echo(f"{len(images)} faces, {len(pairs)} pairs, dlib")
    for name, one, other in (
        ("uncompressed", original, original),
        ("original-decoded", original, coded),
        ("decoded-decoded", coded, coded),
    ):
        found = verify_pairs(unit(one), unit(other), pairs)
        click.echo(f"{name:17} {found.accuracy:.2%} +- {found.error:.2%}")
    apart = np.linalg.norm(original - coded, axis=1)
    mean = Mean.of(apart, people_of(names))
    click.echo(f"distance {mean.value:.4f} +- {mean.error:.4f}; within {THRESHOLD}: {np.mean(apart < THRESHOLD):.1%}")


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows (N, E) of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
