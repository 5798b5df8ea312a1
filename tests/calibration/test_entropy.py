"""Entropy tables: the range coder bit by bit, packets that other tables refuse, and the 3 % rule."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from folders import contents
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from stcq.calibration import entropy
from stcq.calibration.entropy import add_tables, count, frequencies, smoothed
from stcq.errors import BundleError, CalibrationError, Corrupt, PacketError, UnsupportedVersion, WrongModel
from stcq.export.export import export
from stcq.export.request import Request
from stcq.runtime.bundle import EMBEDDED, Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.entropy import TOTAL, EntropyFormat, encode_symbols
from stcq.runtime.inspect import inspect
from stcq.runtime.manifest import TABLES
from stcq.runtime.packet import PacketFormat, is_coded
from stcq.runtime.switching import Switching
from stcq.server.metrics import Metrics
from stcq.server.pictures import Pictures

DIGEST = bytes(range(32))
IDENTITY = "a64524fa607c9532"
GOLDEN = ["110001020337e22d35", "1100010203fff8ee8398bf"]


def layout_of(tokens: int, codes: int, groups: int, seed: int, skew: float = 6.0) -> EntropyFormat:
    rng = np.random.default_rng(seed)
    plain = PacketFormat(tokens, codes, groups, DIGEST)
    return EntropyFormat(
        plain, frequencies(rng.random(groups) + 1e-3), frequencies(rng.random((groups, tokens, codes)) ** skew)
    )


def drawn(layout: EntropyFormat, faces: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens as the tables expect them."""
    rng = np.random.default_rng(seed)
    group = rng.choice(len(layout.groups), faces, p=layout.groups / TOTAL)
    rows = [[rng.choice(len(p), p=p / TOTAL) for p in layout.codes[m]] for m in group]
    return group, np.array(rows).reshape(faces, -1)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 300), st.integers(1, 9), st.integers(0, 2**32), st.booleans())
def test_round_trip(tokens: int, codes: int, groups: int, seed: int, expected: bool) -> None:
    layout = layout_of(tokens, codes, groups, seed)
    rng = np.random.default_rng(seed + 1)
    group, indices = (
        drawn(layout, 4, seed) if expected else (rng.integers(0, groups, 4), rng.integers(0, codes, (4, tokens)))
    )
    packets = layout.pack(group, indices)
    compact = layout.pack(group, indices, compact=True)
    assert [len(packet) - 4 for packet in packets] == [len(packet) for packet in compact]
    found, same = layout.unpack(packets), layout.unpack(compact)
    assert (same[0].tolist(), same[1].tolist()) == (group.tolist(), indices.tolist())
    assert (found[0].tolist(), found[1].tolist()) == (group.tolist(), indices.tolist())
    plain = layout.plain.packet_bytes
    assert all(len(packet) < plain if is_coded(packet) else len(packet) == plain for packet in packets)


@given(st.lists(st.tuples(st.integers(1, TOTAL), st.floats(0, 1)), max_size=12))
def test_the_bytes_are_the_shortest_in_the_interval(symbols: list[tuple[int, float]]) -> None:
    """docs/bitstream.md with fractions."""
    intervals = [(int((TOTAL - frequency) * place), frequency) for frequency, place in symbols]
    low, width = Fraction(0), Fraction(1)
    for start, frequency in intervals:
        low, width = low + width * Fraction(start, TOTAL), width * Fraction(frequency, TOTAL)
    packed = encode_symbols(intervals)

    def inside(size: int) -> bool:
        return -(-low * 256**size // 1) < (low + width) * 256**size

    assert low <= Fraction(int.from_bytes(packed, "big"), 256 ** len(packed)) < low + width
    assert not any(inside(size) for size in range(len(packed)))


def test_the_size_is_the_entropy() -> None:
    layout = layout_of(64, 256, 16, 0)
    group, indices = drawn(layout, 60, 1)
    picked = layout.codes[group[:, None], np.arange(64)[None], indices]
    bits = -np.log2(layout.groups[group] / TOTAL) - np.log2(picked / TOTAL).sum(1)
    sizes = np.array([len(packet) - 9 for packet in layout.pack(group, indices)])
    assert ((sizes >= np.floor(bits / 8)) & (sizes <= np.ceil(bits / 8) + 1)).all()


def test_golden_bytes() -> None:
    """A change of these bytes is another format."""
    plain = PacketFormat(3, 4, 2, DIGEST)
    codes = np.array([[40000, 20000, 5000, 536]] * 6).reshape(2, 3, 4)
    layout = EntropyFormat(plain, np.array([60000, 5536]), codes)
    assert layout.identity.hex()[:16] == IDENTITY
    assert [packet.hex() for packet in wide().pack(np.array([0, 1]), np.array([[0] * 40, [255] + [0] * 39]))] == GOLDEN


def wide() -> EntropyFormat:
    """Forty tokens whose first code is likely and whose others are not."""
    row = np.array([TOTAL - 255 * 16, *[16] * 255])
    return EntropyFormat(
        PacketFormat(40, 256, 2, DIGEST), np.array([TOTAL // 2] * 2), np.broadcast_to(row, (2, 40, 256))
    )


def test_damage_is_refused() -> None:
    layout = layout_of(20, 32, 4, 0)
    group, indices = drawn(layout, 3, 2)
    for packet in [*layout.pack(group, indices), *layout.pack(group, indices, compact=True)]:
        assert is_coded(packet)
        tagged = packet[0] == 0x11
        for bit in range(8 * len(packet)):
            broken = bytearray(packet)
            broken[bit // 8] ^= 128 >> bit % 8
            expected = (UnsupportedVersion, Corrupt, WrongModel) if bit < 8 else Corrupt
            expected = WrongModel if tagged and 8 <= bit < 40 else expected
            with pytest.raises(expected):
                layout.unpack([bytes(broken)])
        for broken in [*(packet[:n] for n in range(len(packet))), packet + b"\0", packet + packet]:
            with pytest.raises(PacketError):
                layout.unpack([bytes(broken)])
        with pytest.raises(UnsupportedVersion, match="tables"):
            layout.plain.unpack([packet])


def test_other_tables_refuse_a_packet() -> None:
    one, other = layout_of(20, 32, 4, 0), layout_of(20, 32, 4, 1)
    with pytest.raises(Corrupt, match="another calibration"):
        other.unpack(one.pack(*drawn(one, 1, 2)))


def test_frequencies_are_whole_and_never_zero() -> None:
    rng = np.random.default_rng(0)
    rows = frequencies(np.concatenate([rng.random((50, 300)) ** 20, np.eye(1, 300), np.ones((1, 300))]))
    assert (rows.sum(-1) == TOTAL).all()
    assert rows.min() == 1
    assert np.abs(rows[-1] - TOTAL / 300).max() < 1


def test_counts_fall_back_to_the_tokens_frequencies() -> None:
    group, indices = np.array([0, 0, 1]), np.array([[1], [1], [2]])
    groups, codes = count(iter([(group, indices)]), Switching(3, 1), 4)
    assert groups.tolist() == [2, 1, 0]
    assert codes[:, 0].tolist() == [[0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    weights = smoothed(codes)[:, 0]
    assert weights[2].argmax() == 1
    assert weights[1, 2] / weights[1].sum() > weights[2, 2] / weights[2].sum()


def test_tables_that_save_too_little_are_refused(small: Path, portraits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(small)
    monkeypatch.setattr(entropy, "LEAST_SAVING", 0.99)
    result = add_tables(small, portraits)
    assert not result.kept
    assert "refused: less than" in result.summary()
    assert contents(small) == before
    with pytest.raises(BundleError, match="--entropy-tables"):
        Codec.load(small, entropy=True)


def test_tables_in_a_bundle(small: Path, portraits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entropy, "LEAST_SAVING", -1.0)
    result = add_tables(small, portraits)
    assert result.kept
    assert TABLES in Bundle(small).manifest.files
    faces = [np.asarray(face) for face in np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)]
    with Codec.load(small, entropy=True) as coded, Codec.load(small) as plain:
        packets = coded.encode_batch(faces)
        assert np.array_equal(plain.decode_batch(packets), plain.decode_batch(plain.encode_batch(faces)))
        assert np.array_equal(plain.decode_batch([packets[0], plain.encode(faces[1])]), plain.decode_batch(packets[:2]))
        if any(map(is_coded, packets)):
            packet = next(filter(is_coded, packets))
            pictures = Pictures([EMBEDDED, small], Metrics())  # the other model's bundle has no tables
            found = np.asarray(Image.open(io.BytesIO(pictures.decode_packet(packet, "png"))))
            assert np.array_equal(found, plain.decode(packet))
            pictures.close()
            (tmp_path / "one.stcq").write_bytes(b"STCQ" + packet)
            assert inspect(str(tmp_path / "one.stcq"), Bundle(small))["valid"]


def test_adding_a_variant_keeps_the_tables(
    small: Path, small_checkpoint: Path, portraits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entropy, "LEAST_SAVING", -1.0)
    add_tables(small, portraits)
    before = Bundle(small).manifest
    assert export(small_checkpoint, small, requests=[Request("onnx", "fp16")]).dropped == ()
    after = Bundle(small).manifest
    assert after.files[TABLES] == before.files[TABLES]
    assert after.provenance["entropy"] == before.provenance["entropy"]
    gone = export(small_checkpoint, small, codebooks="fp16", replace=True)
    assert gone.dropped == ("onnx-fp16", TABLES)
    assert TABLES in gone.summary()
    assert "entropy" not in Bundle(small).manifest.provenance


def test_too_many_groups_or_codes_for_tables(small: Path, portraits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for most, said in ((4, "5 codes"), (2, "3 groups")):
        monkeypatch.setattr(entropy, "MOST_CODES", most)
        with pytest.raises(CalibrationError, match=f"at most {most} codes a book and {most} groups, .* {said}"):
            add_tables(small, portraits)


def test_a_full_disk_leaves_the_bundle(small: Path, portraits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    before = contents(small)
    monkeypatch.setattr(entropy, "LEAST_SAVING", -1.0)
    monkeypatch.setattr(entropy, "save_file", full)
    with pytest.raises(CalibrationError, match=f"no space is left in {small.parent}, free some; it is unchanged"):
        add_tables(small, portraits)
    assert contents(small) == before
    assert sorted(path.name for path in small.parent.iterdir()) == ["small"]
