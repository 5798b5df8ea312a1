"""The pictures of a calibration: some to calibrate on, read a few at a time, and others of other people to judge by."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from ..errors import CalibrationError, ImageError
from ..evaluation.faces import Faces, Images, read_faces
from ..evaluation.pairs import Pair, make_pairs
from ..evaluation.quality import crop_square, spaced
from ..runtime.images import open_image
from ..runtime.sources import Source, open_source, overlap

FEWEST, FEWEST_HELD_OUT = 32, 16
BATCH = 16
SHARE = 0.2  # of the people are held out when no other pictures are given


@dataclass
class Pictures:
    """Calibration pictures, not read yet, and held-out faces.

    Attributes:
        source: where the calibration pictures are.
        names: which of them.
        size: S.
        crop: side of the crop over the picture's shorter side.
        held_out: faces of other people (or, without folders of people, other pictures).
        skipped: calibration pictures that could not be used, as far as they were read.
    """

    source: Source
    names: list[str]
    size: int
    crop: float
    held_out: Faces
    skipped: set[str] = field(default_factory=set)

    def batches(self, limit: int | None = None) -> Iterator[Images]:
        """Pictures (B, S, S, 3) uint8, at most BATCH at a time; `limit` takes that many, evenly spaced.

        Raises:
            CalibrationError: fewer than FEWEST could be used.
        """
        rows: list[NDArray[np.uint8]] = []
        used = 0
        picks = spaced(len(self.names), limit)
        for index in picks:
            picture = self._read(self.names[index])
            if picture is not None:
                rows.append(picture)
                used += 1
            if len(rows) == BATCH:
                yield np.stack(rows)
                rows = []
        if rows:
            yield np.stack(rows)
        if used < min(FEWEST, len(picks)):
            raise CalibrationError(
                f"only {used} of {len(picks)} pictures in {self.source.path} can be used, the least is {FEWEST}; "
                f"give readable faces of at least {self.size // 2} pixels a side"
            )

    def _read(self, name: str) -> NDArray[np.uint8] | None:
        """One picture; None, with a line on stderr the first time, if it cannot be used."""
        if name in self.skipped:
            return None
        try:
            image = open_image(self.source.read(name))
            side = min(image.size) * self.crop
            if side < self.size / 2:
                raise ImageError(f"{image.width} x {image.height} pixels; the codec needs about {self.size} a side")
            return crop_square(image, self.size, self.crop)
        except ImageError as error:
            self.skipped.add(name)
            print(f"skipped {self.source.path}/{name}: {error}", file=sys.stderr, flush=True)
            return None


def open_pictures(
    images: Path,
    size: int,
    *,
    held_out: Path | None = None,
    crop: float = 1.0,
    limit: int = 2000,
    held_out_limit: int = 1000,
    seed: int = 0,
) -> Pictures:
    """List the calibration pictures and read the held-out ones.

    Without `held_out` a fifth of the people (folders; of the pictures, where there are no folders) are kept aside.

    Args:
        images: folder or zip.
        size: S of the codec.
        held_out: folder or zip of other people.
        crop: side of the crop over the picture's shorter side.
        limit: most calibration pictures, evenly spaced.
        held_out_limit: most held-out pictures.
        seed: chooses who is held out.

    Raises:
        ImageError: a source is missing, or holds no pictures.
        CalibrationError: too few pictures, or both are the same.
    """
    source = open_source(images)
    if held_out is not None and overlap(held_out, images):
        raise CalibrationError(
            f"--held-out {held_out} and --images {images} share pictures; give others, or leave --held-out out, which "
            "keeps a fifth of the people aside"
        )
    if held_out is None:
        train, test = split(source.names, held_out_limit, seed)
        judge = Source(images, test)
    else:
        train, judge = source.names, open_source(held_out)
        judge = Source(judge.path, [judge.names[i] for i in spaced(len(judge.names), held_out_limit)])
    if len(train) < FEWEST or len(judge.names) < FEWEST_HELD_OUT:
        raise CalibrationError(
            f"{len(train)} pictures to calibrate on and {len(judge.names)} held out are too few; "
            f"give at least {FEWEST} and {FEWEST_HELD_OUT}, better 500 of each"
        )
    train = [train[i] for i in spaced(len(train), limit)]
    faces = read_faces(judge, size, crop, pairs_of(judge.names))
    if len(faces.images) < FEWEST_HELD_OUT:
        raise CalibrationError(f"only {len(faces.images)} held-out pictures in {judge.path} can be read; give more")
    return Pictures(source, train, size, crop, faces)


def split(names: list[str], most: int, seed: int) -> tuple[list[str], list[str]]:
    """Names for calibration and for judging, people kept whole: a fifth of them, `most` pictures at most."""
    people: dict[str, list[str]] = {}
    for name in names:
        parent = str(PurePosixPath(name).parent)
        people.setdefault(name if parent == "." else parent, []).append(name)
    if len(people) < 5:  # a few folders are no people
        people = {name: [name] for name in names}
    order = np.random.default_rng(seed).permutation(sorted(people))
    held: list[str] = []
    for person in order[: max(1, round(SHARE * len(order)))]:
        if held and len(held) + len(people[person]) > most:
            break
        held += people[person]
    aside = set(held)
    held = sorted(held)
    return [name for name in names if name not in aside], [held[i] for i in spaced(len(held), most)]


def pairs_of(names: list[str]) -> list[Pair]:
    """Verification pairs as `stcq evaluate` makes them; none when there are too few people with two pictures."""
    try:
        return make_pairs(names)
    except ImageError:
        return []
