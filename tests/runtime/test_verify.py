"""The self-test judges by margins: a near tie may fall either way, a real difference fails and is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stcq.runtime import selection
from stcq.runtime.codec import Codec
from stcq.runtime.flips import find_flips
from stcq.runtime.group_search import GroupSearch
from stcq.runtime.switching import Switching
from stcq.runtime.verify import psnr, relative_difference, verify
from stcq.runtime.verify_report import TOLERANCES, Report, failures_of


@pytest.fixture
def golden(small_bundle: Path) -> dict[str, Any]:
    with Codec.load(small_bundle) as codec:
        return {name: np.array(array) for name, array in codec.bundle.golden().items()}


def check(small_bundle: Path, golden: dict[str, Any]) -> Report:
    with Codec.load(small_bundle) as codec:
        return verify(codec, golden)


def repack(small_bundle: Path, golden: dict[str, Any]) -> None:
    """Packets that fit changed tokens."""
    with Codec.load(small_bundle) as codec:
        packets = codec.bundle.manifest.codec.packets.pack(golden["group"], golden["indices"])
    golden["packets"] = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)


def test_the_golden_set_passes(small_bundle: Path, golden: dict[str, Any]) -> None:
    report = check(small_bundle, golden)
    assert report.passed
    assert (report.packet_agreement, report.flips, report.largest_gap) == (1.0, (), 0.0)
    assert report.router_difference is not None


def test_another_token_fails_and_is_named(small_bundle: Path, golden: dict[str, Any]) -> None:
    golden["indices"][2, 3] = (golden["indices"][2, 3] + 1) % 5
    repack(small_bundle, golden)
    report = check(small_bundle, golden)
    assert not report.passed
    assert report.packet_agreement == 7 / 8
    [flip] = report.flips  # once, although tokenizer and encoder with quantizer both have it
    assert (flip.face, flip.token) == (2, 3)
    assert flip.gap == report.largest_gap > 1e-4
    assert any("tokenizer: indices" in f and "index of token 3 of face 2" in f for f in report.failures)


def test_the_runtimes_own_search_is_tested_where_it_encodes(
    small_bundle: Path, golden: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "SEARCHED", 1)
    report = check(small_bundle, golden)
    assert report.passed, report.failures
    select = GroupSearch.select

    def wrong(self: GroupSearch, latents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        group, indices = select(self, latents)
        return group, (indices + 1) % 5

    monkeypatch.setattr(GroupSearch, "select", wrong)
    assert not check(small_bundle, golden).passed


def test_another_group_fails_and_is_named(small_bundle: Path, golden: dict[str, Any]) -> None:
    golden["group"][1] = (golden["group"][1] + 1) % 3
    repack(small_bundle, golden)
    report = check(small_bundle, golden)
    assert report.flips[0].token is None
    assert any("group of face 1" in f for f in report.failures)


@pytest.mark.parametrize(
    ("tensor", "named"), [("latents", "encoder: latents"), ("scores", "router: scores"), ("outputs", "decoder: image")]
)
def test_what_differs_is_named(small_bundle: Path, golden: dict[str, Any], tensor: str, named: str) -> None:
    golden[tensor][0] = golden[tensor][0] + 20
    report = check(small_bundle, golden)
    assert any(failure.startswith(named) for failure in report.failures)


def test_a_tie_may_fall_either_way() -> None:
    """Two codewords at the same distance, and one a little farther than the tolerance."""
    latents = np.zeros((1, 2, 2), np.float32)
    latents[0, :, 0] = 1.0
    books = np.array([[[[1, 0.5], [1, -0.5], [1, 0.6]]] * 2], np.float32)  # (M, T, K, d)
    wanted = (np.array([0]), np.array([[0, 0]]))
    [tie] = find_flips(latents, books, wanted, (np.array([0]), np.array([[1, 0]])))
    assert tie[:4] == (0, 0, 0, 1)
    assert tie.gap == pytest.approx(0, abs=1e-7)
    [far] = find_flips(latents, books, wanted, (np.array([0]), np.array([[0, 2]])))
    assert far.gap == pytest.approx(0.6**2 - 0.5**2, rel=1e-4)
    assert tie.gap < TOLERANCES["fp32"].gap < far.gap


def test_a_wrong_token_is_found_beside_another_choice_of_a_switch() -> None:
    """Two switches of two sets: the first choice is a tie, the second token is far off in the set that both chose."""
    latents = np.ones((1, 2, 2), np.float32)
    books = np.array([[[[1, 0.5], [1, -0.5]]] * 2, [[[1, 1.5], [1, 2.5]]] * 2], np.float32)  # (V, T, K, d)
    wanted, found = (np.array([0]), np.array([[0, 0]])), (np.array([2]), np.array([[0, 1]]))
    tie, far = find_flips(latents, books, wanted, found, Switching(4, 2, 2))
    assert tie[:4] == (0, None, 0, 2)
    assert tie.gap == pytest.approx(0, abs=1e-6)
    assert far[:4] == (0, 1, 0, 1)
    assert far.gap == pytest.approx((1.5**2 - 0.5**2) / 2, rel=1e-4)
    assert len(find_flips(latents, books, wanted, (np.array([3]), found[1]), Switching(4, 2, 2))) == 1


def test_not_a_number_never_passes(golden: dict[str, Any]) -> None:
    assert relative_difference(np.array([np.nan, 1.0]), np.ones(2)) == float("inf")
    figures = {"latent_difference": float("inf"), "largest_gap": float("nan"), "flips": [(0, 0, 0, 0, float("nan"))]}
    figures |= {"router_difference": float("nan"), "pixel_share": float("nan"), "packets_equal": True}
    assert len(failures_of(figures, TOLERANCES["fp16"])) == 4


def test_psnr() -> None:
    black, grey = np.zeros((1, 4, 4, 3), np.uint8), np.full((1, 4, 4, 3), 255, np.uint8)
    assert psnr(black, black) is None
    assert psnr(black, grey) == pytest.approx(0)


def test_a_walk_that_differs_counts_once_by_its_whole_error() -> None:
    """Two sets, a memory of one token: another first code changes the second token's set and so its code."""
    latents = np.array([[[0.0], [1.0]]], np.float32)
    books = np.array([[[[0.1], [-0.1]], [[1.0], [5.0]]], [[[9.0], [8.0]], [[2.0], [1.0]]]], np.float32)
    switching = Switching(2, 2, memory=1, codes=2)
    wanted = (np.array([0]), np.array([[0, 0]]))
    [tie] = find_flips(latents, books, wanted, (np.array([0]), np.array([[1, 1]])), switching)
    assert (tie.token, tie.wanted, tie.found) == (0, 0, 1)
    assert tie.gap == pytest.approx(0, abs=1e-6)
    [worse] = find_flips(latents, books, wanted, (np.array([0]), np.array([[1, 0]])), switching)
    assert worse.gap == pytest.approx(1 / 0.01, rel=1e-3)
    [other] = find_flips(latents, books, wanted, (np.array([1]), np.array([[0, 0]])), switching)
    assert (other.token, other.wanted, other.found) == (None, 0, 1)
    assert find_flips(latents, books, wanted, wanted, switching) == []
