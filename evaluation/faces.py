"""The pictures that a codec is measured on, and the verification pairs among them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError
from ..runtime.images import Pixels, open_image
from ..runtime.sources import Source, open_source
from .means import People
from .pairs import Pair, make_pairs, people_of, read_bin, read_pairs
from .quality import crop_square, spaced

Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Faces:
    """Pictures (N, S, S, 3), verification pairs of their indices, how many could not be read, and who they show (N,).

    `people` is None where nobody is known, as in an InsightFace .bin.
    """

    images: Images
    pairs: tuple[Pair, ...]
    skipped: int = 0
    people: People | None = None


def load_faces(
    path: Path, size: int, crop: float = 1.0, limit: int | None = None, pairs: Path | None = None, verify: bool = False
) -> Faces:
    """Pictures of a folder, a zip or an InsightFace .bin, cropped for a codec.

    An unreadable picture is named on stderr, counted and left out, with its pairs.

    Args:
        path: the pictures.
        size: S.
        crop: side of the crop over the picture's shorter side.
        limit: most pictures, evenly spaced; verification needs all of them.
        pairs: a pairs file; None = all positives (6 for each person at most) and as many negatives, fixed seed, or a
            .bin's own.
        verify: whether pairs are wanted at all.

    Raises:
        ImageError: no readable pictures, unreadable pairs, a pairs file for pictures that are not all there or have
            their own, or a crop that is no fraction.
    """
    if pairs and (limit is not None or path.suffix == ".bin"):
        wrong = "all pictures, not a limit of them" if limit is not None else f"pictures by name; {path} has its own"
        raise ImageError(f"the pairs of {pairs} need {wrong}; give one without the other")
    if path.suffix == ".bin":
        contents, found = read_bin(path)
        kept = range(len(contents)) if verify else [int(pick) for pick in spaced(len(contents), limit)]
        named = {f"picture {n}": contents[n] for n in kept}
        return _readable(list(named), named.__getitem__, found if verify else [], path, size, crop, known=False)
    source = open_source(path)
    if verify:
        found = read_pairs(pairs, source) if pairs else make_pairs(source.names)
        picks = np.arange(len(source.names))
    else:
        found, picks = [], spaced(len(source.names), limit)
    names = [source.names[i] for i in picks]
    return _readable(names, source.read, found, path, size, crop)


def read_faces(source: Source, size: int, crop: float = 1.0, pairs: Sequence[Pair] = ()) -> Faces:
    """All pictures of a source, as `load_faces` reads them.

    Args:
        source: the pictures.
        size: S.
        crop: side of the crop over the picture's shorter side.
        pairs: of indices into the source's names.

    Raises:
        ImageError: none can be read.
    """
    return _readable(source.names, source.read, pairs, source.path, size, crop)


def _readable(
    names: Sequence[str],
    read: Callable[[str], bytes],
    pairs: Sequence[Pair],
    path: Path,
    size: int,
    crop: float,
    known: bool = True,
) -> Faces:
    """The pictures that can be read, and the pairs with both pictures."""
    if not 0 < crop <= 1:
        raise ImageError(f"crop is {crop}; give a fraction above 0, up to 1")
    images: list[Pixels] = []
    place: dict[int, int] = {}  # number of the picture -> row of the array
    for number, name in enumerate(names):
        try:
            images.append(crop_square(open_image(read(name)), size, crop))
        except ImageError as error:
            print(f"skipped unreadable picture {path}/{name}: {error}", file=sys.stderr, flush=True)
            continue
        place[number] = len(images) - 1
    if not images:
        raise ImageError(f"{path} holds no readable picture; give a folder, zip or .bin of face pictures")
    kept = [replace(p, one=place[p.one], other=place[p.other]) for p in pairs if p.one in place and p.other in place]
    people = people_of([names[number] for number in place]) if known else None
    return Faces(np.stack(images), tuple(kept), len(names) - len(images), people)
