"""Pairs, folds, accuracy; and pickles that would run code are refused."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import ImageError
from stcq.evaluation.pairs import Pair, make_pairs, read_bin, read_pairs
from stcq.evaluation.usage import code_usage, entropy
from stcq.evaluation.verification import verify_pairs
from stcq.runtime.sources import Source

NAMES = [f"p{person:02}/p{person:02}_{number:04}.webp" for person in range(40) for number in range(1, 2 + person % 5)]


def test_made_pairs_are_balanced_and_folds_share_no_people() -> None:
    pairs = make_pairs(NAMES, seed=1)
    person = [name.split("/")[0] for name in NAMES]
    assert pairs == make_pairs(NAMES, seed=1)
    assert pairs != make_pairs(NAMES, seed=2)
    assert {pair.fold for pair in pairs} == set(range(10))
    assert sum(pair.same for pair in pairs) * 2 == len(pairs)
    people: dict[int, set[str]] = {}
    for pair in pairs:
        assert (person[pair.one] == person[pair.other]) == pair.same
        assert pair.one != pair.other
        people.setdefault(pair.fold, set()).update((person[pair.one], person[pair.other]))
    assert sum(map(len, people.values())) == len(set().union(*people.values()))
    with pytest.raises(ImageError, match="10 folds"):
        make_pairs(NAMES[:20])


def test_perfect_and_blind_recognisers() -> None:
    pairs = make_pairs(NAMES)
    people = np.array([int(name[1:3]) for name in NAMES])
    perfect = np.eye(40)[people]
    assert verify_pairs(perfect, perfect, pairs).accuracy == 1
    blind = np.random.default_rng(0).standard_normal((len(NAMES), 64))
    blind /= np.linalg.norm(blind, axis=1, keepdims=True)
    found = verify_pairs(blind, blind, pairs)
    assert 0.2 < found.accuracy < 0.75
    assert found.error > 0


def test_the_threshold_never_sees_its_own_fold() -> None:
    """Fold 1 has distances that only its own threshold would separate."""
    embeddings = np.array([[0.0], [0.1], [1.0], [1.2], [1.9]])
    pairs = [Pair(0, 1, True, 0), Pair(0, 2, False, 0), Pair(0, 3, True, 1), Pair(0, 4, False, 1)]
    assert verify_pairs(embeddings, embeddings, pairs).accuracy == 0.5 * (0.5 + 0.5)


def test_not_enough_pairs() -> None:
    one = np.eye(2)
    for pairs in ([Pair(0, 1, True, 0), Pair(0, 1, True, 1)], [Pair(0, 1, True, 0), Pair(0, 1, False, 0)]):
        with pytest.raises(ImageError, match="not enough"):
            verify_pairs(one, one, pairs)


def test_pairs_files(tmp_path: Path) -> None:
    source = Source(tmp_path, NAMES)
    path = tmp_path / "pairs.txt"
    path.write_text(
        "10 2\np01 1 2\np01 1 p02 2\n"
        + "p01/p01_0001.webp,p01/p01_0002.webp,1\np01/p01_0001.webp p03/p03_0001.webp 0\n"
    )
    assert [(NAMES[p.one], NAMES[p.other], p.same) for p in read_pairs(path, source, 2)] == [
        ("p01/p01_0001.webp", "p01/p01_0002.webp", True),
        ("p01/p01_0001.webp", "p02/p02_0002.webp", False),
        ("p01/p01_0001.webp", "p01/p01_0002.webp", True),
        ("p01/p01_0001.webp", "p03/p03_0001.webp", False),
    ]
    assert [p.fold for p in read_pairs(path, source, 2)] == [0, 0, 1, 1]
    for text in ("p01 1 99", "one two", "p99 1 2"):
        path.write_text(text)
        with pytest.raises(ImageError, match="line 1"):
            read_pairs(path, source)
    with pytest.raises(ImageError, match="no pairs file"):
        read_pairs(tmp_path / "missing", source)


@pytest.mark.parametrize("text", ["", "10 300\n", "\n\n"])
def test_a_pairs_file_without_pairs(tmp_path: Path, text: str) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(ImageError, match=r"pairs.txt names no pairs; give lines such as"):
        read_pairs(tmp_path / "pairs.txt", Source(tmp_path, NAMES))


def test_only_the_first_line_of_a_pairs_file_is_a_header(tmp_path: Path) -> None:
    source, path = Source(tmp_path, ["1.png", "2.png", "3/3_0001.png", "3/3_0002.png"]), tmp_path / "pairs.txt"
    path.write_text("10 300\n1 2 0\n3 1 2\n3 1 3 2\n")
    assert [(p.one, p.other, p.same) for p in read_pairs(path, source)] == [(0, 1, False), (2, 3, True), (2, 3, False)]
    for text, line in (("10 300\n10 300\n", 2), ("1 2 0\n7\n", 2), ("1 2 3 4\n", 1)):
        path.write_text(text)
        with pytest.raises(ImageError, match=f"line {line}: .* names no two pictures"):
            read_pairs(path, source)


def test_what_windows_and_csv_make_of_a_pairs_file(tmp_path: Path) -> None:
    source, path = Source(tmp_path, NAMES), tmp_path / "pairs.txt"
    path.write_bytes(b"\xef\xbb\xbf1 1\r\np01 1 2\r\np01 1 p02 2\r\n")
    assert [p.same for p in read_pairs(path, source)] == [True, False]
    for text, message in (
        ("p01/p01_0001.webp\n", "a line has 3 or 4 words"),
        ("img1,img2,label\n", "the third word is 'label': give 1 for one person, 0 for two"),
        ("p01/p01_0001.webp p01/p01_0002.webp -1\n", "the third word is '-1'"),
    ):
        path.write_text(text)
        with pytest.raises(ImageError, match=message):
            read_pairs(path, source)


def test_folds_hold_both_kinds(tmp_path: Path) -> None:
    source, path = Source(tmp_path, NAMES), tmp_path / "pairs.txt"
    same, different = "p01 1 2\n", "p01 1 p02 2\n"
    path.write_text("4 2\n" + (2 * same + 2 * different) * 4)
    assert [p.fold for p in read_pairs(path, source)] == [f for f in range(4) for _ in range(4)]  # as its header says
    path.write_text("20\n" + 20 * same + 20 * different)  # LFW's view 1: all of one kind first
    pairs = read_pairs(path, source)
    for fold in range(10):
        assert [p.same for p in pairs if p.fold == fold] == [True, True, False, False]
    path.write_text(3 * same + 97 * different)
    pairs = read_pairs(path, source)
    assert [[p.fold for p in pairs if p.same], {p.fold for p in pairs}] == [[0, 1, 2], {0, 1, 2}]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("arrays", [False, True])
def test_insightface_bins(tmp_path: Path, protocol: int, arrays: bool) -> None:
    pictures = [f"picture {n}".encode() for n in range(8)]
    stored = [np.frombuffer(p, np.uint8).copy() for p in pictures] if arrays else pictures
    flags = [True, False, True, False] if protocol else [np.bool_(v) for v in (1, 0, 1, 0)]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((stored, flags), protocol))
    contents, pairs = read_bin(tmp_path / "lfw.bin", 2)
    assert contents == pictures
    assert [(p.one, p.other, p.same, p.fold) for p in pairs] == [
        (0, 1, True, 0),
        (2, 3, False, 0),
        (4, 5, True, 1),
        (6, 7, False, 1),
    ]


def test_bins_of_python_2_and_flags_of_any_kind(tmp_path: Path) -> None:
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\nt"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    array = head + kind + b"I00\nS'\\xff\\x00a'\ntb"
    path = tmp_path / "old.bin"
    path.write_bytes(b"((lp1\n" + array + b"aS'\\xff\\x00a'\na(lp2\nI01\nat.")
    assert read_bin(path) == ([b"\xff\x00a"], [Pair(0, 0, True, 0)])
    for flags in (np.array([True, False]), np.array([1, 0], ">i8"), np.array([1.0, 0.0]), [np.int64(1), 0]):
        for protocol in range(6):
            path.write_bytes(pickle.dumps(([b"x"] * 4, flags), protocol))
            assert [pair.same for pair in read_bin(path)[1]] == [True, False]


class Call:
    """Pickles as a call of anything, with a state for what it returns."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple:
        return self.reduced


HIDDEN = Call(np.dtype, ("V8", False, True), (3, "|", None, ("f0",), {"f0": (np.dtype("O"), 0)}, 8, 1, 0))
POINTER = b"\x41" * 8


BUILD, FILL = np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b")
CRAFTED = [
    Call(np.ndarray, ((1,), np.dtype("O"), POINTER)),
    Call(BUILD, FILL, (1, (1,), HIDDEN, False, POINTER)),
    Call(BUILD, FILL, (1, (9,), np.dtype("u1"), False, POINTER)),
    Call(BUILD, FILL, (1, (-8,), np.dtype("u1"), False, POINTER)),
    Call(np._core.numeric._frombuffer, (POINTER, HIDDEN, (1,), "C")),
    Call(np._core.multiarray.scalar, (np.dtype("O"), POINTER)),
    np.array([b"x", b"y"]),
    3 * 10**9,
    "text",
]
READING = """
import sys
from stcq.errors import ImageError
from stcq.evaluation.pairs import Path, read_bin
for name in sys.argv[1:]:
    try:
        print("read", name, read_bin(Path(name)))
    except ImageError as error:
        assert "no InsightFace .bin" in str(error)
"""


def test_bins_make_numpy_build_nothing(tmp_path: Path) -> None:
    """Such files made numpy follow a pointer that the file holds, or gave pictures of gigabytes of zeros."""
    documents = [
        d for crafted in CRAFTED for d in (([crafted, b"x"], [True]), (crafted, [True]), ([b"x"] * 2, crafted))
    ]
    documents.append((np.zeros(2), [True]))
    documents.append(([np.zeros(1), b"x"], [True]))
    for number, document in enumerate(documents):
        (tmp_path / f"{number}.bin").write_bytes(pickle.dumps(document, 4))
    command = [sys.executable, "-c", READING, *sorted(tmp_path.iterdir())]  # they ended the process that read them
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr


class Attack:
    def __reduce__(self) -> tuple:
        return os.system, ("touch /tmp/stcq-was-here",)


def test_bins_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.bin"
    for content in (
        pickle.dumps(([Attack()], [True])),
        pickle.dumps(([np.array([Attack()])], [True])),
        b"",
        b"\x80\x04garbage",
    ):
        path.write_bytes(content)
        with pytest.raises(ImageError, match="no InsightFace"):
            read_bin(path)
    assert not Path("/tmp/stcq-was-here").exists()
    for value in (([b""], [True]), [1, 2, 3], ("a", "b"), ([], [])):
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(ImageError, match="no InsightFace"):
            read_bin(path)


def test_code_usage() -> None:
    indices = np.array([[0, 0], [1, 0], [2, 0], [3, 0]])
    usage = code_usage(np.array([0, 0, 2, 2]), indices, 4)
    assert usage.per_token == pytest.approx((1 + 0.25) / 2)
    assert usage.entropy_bits == pytest.approx(1)
    assert (usage.groups_used, usage.group_entropy_bits) == (2, 1)
    assert entropy(np.array([5, 0])) == 0
