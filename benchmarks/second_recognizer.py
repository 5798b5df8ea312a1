"""Verification of decoded faces by a recogniser that is in no loss: dlib's ResNet.

It comes as packages, 100 MB, for an environment of its own:
    pip install dlib-bin face_recognition_models "setuptools<80"
Faces are aligned by dlib's five points, found anew in every picture, as its users would.

usage: python benchmarks/second_recognizer.py FACES.zip [--bundle bundles/face-65]     (some three minutes)
"""

import itertools
import zipfile
from pathlib import Path

import click
import dlib
import face_recognition_models as weights
import numpy as np
from stcq import Codec
from stcq.runtime.images import open_image

ROOT = Path(__file__).parent.parent
THRESHOLD = 0.6  # dlib's, for one person
SAME = 6  # most pairs of a person


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


def pairs(people: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs (P, 2) and whether they show one person (P,), half of them."""
    rng, same = np.random.default_rng(0), []
    for person in sorted(set(people)):
        mine = list(itertools.combinations([i for i, name in enumerate(people) if name == person], 2))
        rng.shuffle(mine)
        same += [tuple(pair) for pair in mine[:SAME]]
    different: list[tuple[int, int]] = []
    while len(different) < len(same):
        a, b = rng.integers(len(people), size=2)
        if people[a] != people[b]:
            different.append((a, b))
    return np.array(same + different), np.repeat([True, False], len(same))


def accuracy(first: np.ndarray, second: np.ndarray, chosen: np.ndarray, same: np.ndarray) -> str:
    """Ten folds, the threshold picked on nine: mean and standard error in percent."""
    apart = np.linalg.norm(first[chosen[:, 0]] - second[chosen[:, 1]], axis=1)
    folds, right = np.random.default_rng(1).permutation(len(chosen)) % 10, []
    for fold in range(10):
        rest = folds != fold
        best = max(np.sort(apart[rest])[::5], key=lambda at: np.mean((apart[rest] < at) == same[rest]))
        right.append(np.mean((apart[~rest] < best) == same[~rest]))
    return f"{100 * np.mean(right):.1f} +- {100 * np.std(right) / 10**0.5:.1f} %"


@click.command()
@click.argument("faces", type=click.Path(path_type=Path, exists=True))
@click.option("--bundle", type=click.Path(path_type=Path), default=ROOT / "bundles" / "face-65")
def main(faces: Path, bundle: Path) -> None:
    images, people = [], []
    with zipfile.ZipFile(faces) as archive, Codec.load(bundle, variant="onnx-fp32") as codec:
        for name in sorted(name for name in archive.namelist() if name.endswith(".webp")):
            images.append(np.asarray(open_image(archive.read(name)).convert("RGB"))[16:144, 16:144])
            people.append(name.split("/")[-2])
        decoded = [np.asarray(image) for image in codec.decode_batch(codec.encode_batch(images))]
    original, coded = descriptors(images), descriptors(decoded)
    chosen, same = pairs(people)
    click.echo(f"{len(images)} faces, {len(chosen)} pairs, dlib")
    click.echo(f"uncompressed        {accuracy(original, original, chosen, same)}")
    click.echo(f"original-decoded    {accuracy(original, coded, chosen, same)}")
    click.echo(f"decoded-decoded     {accuracy(coded, coded, chosen, same)}")
    near = np.linalg.norm(original - coded, axis=1)
    click.echo(f"within {THRESHOLD} of its original: {np.mean(near < THRESHOLD):.1%}")


if __name__ == "__main__":
    main()
