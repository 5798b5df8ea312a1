"""Verification pairs: made from folders of people, read from a pairs file, or from an InsightFace .bin."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import ImageError
from ..runtime.sources import Source
from .means import People
from .plain_pickle import Made, as_array, as_bytes, load_plain

MAX_BIN = 1 << 31
FOLDS = 10
FEWEST_PEOPLE = 5


@dataclass(frozen=True)
class Pair:
    """Two pictures (indices into a list of pictures), whether they show one person, and the fold they belong to."""

    one: int
    other: int
    same: bool
    fold: int


def people_of(names: Sequence[str]) -> People | None:
    """Which person each picture shows (N,), by its folder; None = a few folders, which are no people."""
    parents = [str(PurePosixPath(name).parent) for name in names]
    alone = [name if parent == "." else parent for name, parent in zip(names, parents, strict=True)]
    found, numbers = np.unique(alone, return_inverse=True)
    return numbers.astype(np.int64) if len(found) >= FEWEST_PEOPLE else None


def make_pairs(names: Sequence[str], seed: int = 0, per_person: int = 6, folds: int = FOLDS) -> list[Pair]:
    """Pairs of pictures named person/picture: up to `per_person` positives each, as many negatives.

    People are dealt to folds, so that no fold's threshold has seen its people.

    Raises:
        ImageError: fewer people with two pictures than folds, or fewer than two people for each fold.
    """
    rng = np.random.default_rng(seed)
    people: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        people[str(PurePosixPath(name).parent)].append(index)
    several = sorted(person for person, pictures in people.items() if len(pictures) > 1)
    if len(several) < folds or len(people) < 2 * folds:
        raise ImageError(
            f"{len(people)} people, {len(several)} with two pictures, are too few for {folds} folds; "
            f"give {2 * folds} people or more, or use a limit to leave out verification"
        )
    order = [str(person) for person in rng.permutation(sorted(people))]
    order.sort(key=lambda person: len(people[person]) < 2)  # those with several pictures go round first
    fold_of = {person: number % folds for number, person in enumerate(order)}
    pairs = []
    for fold in range(folds):
        members = sorted(person for person in people if fold_of[person] == fold)
        positive: list[tuple[int, int]] = []
        for person in members:
            found = list(combinations(people[person], 2))
            positive += [found[i] for i in rng.permutation(len(found))[:per_person]]
        pairs += [Pair(a, b, True, fold) for a, b in positive]
        for _ in positive:
            one, other = rng.choice(len(members), 2, replace=False)
            a, b = (int(rng.choice(people[members[i]])) for i in (one, other))
            pairs.append(Pair(a, b, False, fold))
    return pairs


def read_pairs(path: Path, source: Source, folds: int = FOLDS) -> list[Pair]:
    """Read a pairs file over a source's pictures, folds in the order of the file.

    Lines are "picture picture 1" (same person; 0: different), or LFW's "person n m" and "person n other m"; the first
    may be LFW's header, how many folds and pairs of each kind in one: ten folds where that is not what follows. Where a
    fold would hold one kind only (all same ones first), each kind is dealt to the folds by itself.

    Raises:
        ImageError: an unreadable file, one without pairs, or a picture that the source does not have.
    """
    index = {str(PurePosixPath(name).with_suffix("")): number for number, name in enumerate(source.names)}
    index |= {name: number for number, name in enumerate(source.names)}
    found: list[tuple[int, int, bool]] = []
    header: list[int] = []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImageError(f"{path} is no pairs file: {error}") from error
    for number, line in enumerate(lines, 1):
        parts = line.replace(",", " ").split()
        if number == 1 and 0 < len(parts) <= 2 and all(part.isdigit() for part in parts):
            header = [int(part) for part in parts]
            continue
        if not parts:
            continue
        try:
            one, other, same = _names_of(parts, index)
            found.append((index[one], index[other], same))
        except (KeyError, ValueError) as error:
            raise ImageError(
                f"{path} line {number}: {line!r} names no two pictures of {source.path} ({error})"
            ) from error
    if len(header) == 2 and 2 * header[0] * header[1] == len(found) and header[0] > 1:
        folds = header[0]
    if not found:
        raise ImageError(f'{path} names no pairs; give lines such as "picture picture 1"')
    return _in_folds(found, folds)


def _names_of(parts: list[str], known: Mapping[str, int]) -> tuple[str, str, bool]:
    """The two pictures of one line; a picture's name may be a number."""
    pictures = len(parts) > 1 and parts[0] in known and parts[1] in known
    if len(parts) == 3 and parts[1].isdigit() and not pictures:
        person, one, other = parts
        return _lfw(person, one), _lfw(person, other), True
    if len(parts) == 3 and parts[2] in ("0", "1"):
        return parts[0], parts[1], parts[2] == "1"
    if len(parts) == 3:
        raise ValueError(f"the third word is {parts[2]!r}: give 1 for one person, 0 for two")
    if len(parts) == 4:
        return _lfw(parts[0], parts[1]), _lfw(parts[2], parts[3]), False
    raise ValueError("a line has 3 or 4 words")


def _lfw(person: str, number: str) -> str:
    return f"{person}/{person}_{int(number):04}"


def read_bin(path: Path, folds: int = FOLDS) -> tuple[list[bytes], list[Pair]]:
    """Read an InsightFace .bin: (encoded pictures, pairs); pair i is entries 2i and 2i + 1, equal ones are one picture.

    The file is a pickle; only lists, tuples, bytes, numbers and numpy arrays of them are let through
    (evaluation/plain_pickle.py). A picture is bytes or an array of uint8.

    Raises:
        ImageError: another file, or one that would run code.
    """
    contents: dict[int, bytes] = {}  # by object: a file may name one picture many times
    try:
        if path.stat().st_size > MAX_BIN:
            raise ValueError("larger than 2 GiB")
        with path.open("rb") as file:
            pictures, same = load_plain(file)
        for picture in pictures:
            if id(picture) not in contents:
                contents[id(picture)] = as_bytes(picture)
        flags = _flags(same)
        if len(pictures) != 2 * len(flags) or not flags:
            raise ValueError(f"{len(pictures)} pictures for {len(flags)} pairs")
        place: dict[bytes, int] = {}
        found = [place.setdefault(contents[id(picture)], len(place)) for picture in pictures]
    except Exception as error:  # unpickling damaged bytes raises anything
        raise ImageError(f"{path} is no InsightFace .bin: {error}") from error
    return list(place), _in_folds(list(zip(found[::2], found[1::2], flags, strict=True)), folds)


def _flags(same: Any) -> list[bool]:
    """Which pairs show one person, from a list of truth values or an array of them."""
    values = as_array(same).tolist() if isinstance(same, Made) else same
    return [bool(as_array(value).item() if isinstance(value, Made) else _plain(value)) for value in values]


def _plain(value: Any) -> bool | int | float:
    if not isinstance(value, bool | int | float):
        raise ValueError(f"{type(value).__name__} in the place of a truth value")
    return value


def _in_folds(pairs: list[tuple[int, int, bool]], folds: int) -> list[Pair]:
    """Contiguous folds in the given order, as the protocols ask, or of each kind where a fold would hold one only."""
    found = [Pair(a, b, same, i * folds // len(pairs)) for i, (a, b, same) in enumerate(pairs)]
    kinds: dict[bool, list[Pair]] = {kind: [pair for pair in found if pair.same == kind] for kind in (True, False)}
    least = min(map(len, kinds.values()))
    if least < 2 or all(len({pair.fold for pair in kind}) == folds for kind in kinds.values()):
        return found
    folds = min(folds, least)
    return [replace(p, fold=i * folds // len(kind)) for kind in kinds.values() for i, p in enumerate(kind)]
