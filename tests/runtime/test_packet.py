"""Packets: golden bytes, properties over random models, and everything a reader must refuse."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stcq import errors
from stcq.errors import Corrupt, PacketError, UnsupportedVersion, WrongModel
from stcq.runtime.packet import PacketFormat, from_file, to_file

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "packets.json").read_text())["models"]
DIGEST = bytes(range(32))


def layout_of(model: dict) -> PacketFormat:
    return PacketFormat(model["T"], model["K"], model["M"], bytes.fromhex(model["digest"]))


def slow_pack(layout: PacketFormat, group: int, indices: list[int]) -> bytes:
    """docs/bitstream.md word by word, with strings of 0 and 1."""
    bits = format(group, "b").zfill(layout.group_bits) if layout.group_bits else ""
    for index in indices:
        bits += format(index, "b").zfill(layout.code_bits) if layout.code_bits else ""
    bits += "0" * (-len(bits) % 8)
    payload = bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    framed = b"\x10" + layout.digest[:4] + payload
    return framed + zlib.crc32(layout.digest + framed).to_bytes(4, "little")


models = st.tuples(st.integers(1, 300), st.integers(1, 5000), st.integers(1, 300))


@st.composite
def faces(draw: st.DrawFn) -> tuple[PacketFormat, int, list[int]]:
    tokens, codes, groups = draw(models)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    indices = rng.integers(0, codes, tokens).tolist()
    return PacketFormat(tokens, codes, groups, rng.bytes(32)), int(rng.integers(groups)), indices


def test_there_are_enough_vectors() -> None:
    assert sum(len(model["accepted"]) for model in VECTORS) >= 256
    assert sum(len(model["refused"]) for model in VECTORS) >= 64


@pytest.mark.parametrize("model", VECTORS, ids=lambda m: f"T{m['T']}-K{m['K']}-M{m['M']}")
def test_golden_vectors(model: dict) -> None:
    layout = layout_of(model)
    for case in model["accepted"]:
        packet = bytes.fromhex(case["packet"])
        assert layout.pack(np.array([case["group"]]), np.array([case["indices"]])) == [packet]
        assert slow_pack(layout, case["group"], case["indices"]) == packet
        group, indices = layout.unpack([packet])
        assert (group.tolist(), indices.tolist()) == ([case["group"]], [case["indices"]])
    for case in model["refused"]:
        with pytest.raises(getattr(errors, case["error"])) as caught:
            layout.unpack([bytes.fromhex(case["packet"])])
        assert type(caught.value).__name__ == case["error"]


@given(faces())
def test_round_trip_and_size(face: tuple[PacketFormat, int, list[int]]) -> None:
    layout, group, indices = face
    bits = math.ceil(math.log2(layout.groups)) + layout.tokens * math.ceil(math.log2(layout.codes))
    [packet] = layout.pack(np.array([group]), np.array([indices]))
    assert layout.payload_bytes == math.ceil(bits / 8)
    assert len(packet) == layout.payload_bytes + 9
    assert packet == slow_pack(layout, group, indices)
    found_group, found_indices = layout.unpack([packet])
    assert (found_group[0], found_indices[0].tolist()) == (group, indices)


@settings(max_examples=15)
@given(faces())
def test_every_bit_flip_is_refused_with_its_error(face: tuple[PacketFormat, int, list[int]]) -> None:
    layout, group, indices = face
    [packet] = layout.pack(np.array([group]), np.array([indices]))
    for bit in range(len(packet) * 8):
        broken = bytearray(packet)
        broken[bit // 8] ^= 128 >> bit % 8
        compact = 6  # the bit that says that there is no tag: the length is wrong then
        expected = UnsupportedVersion if bit < 8 and bit != compact else WrongModel if 8 <= bit < 40 else Corrupt
        with pytest.raises(PacketError) as caught:
            layout.unpack([bytes(broken)])
        assert type(caught.value) is expected


@settings(max_examples=15)
@given(faces(), st.binary(min_size=1, max_size=40))
def test_every_truncation_and_extension_is_corrupt(face: tuple[PacketFormat, int, list[int]], tail: bytes) -> None:
    layout, group, indices = face
    [packet] = layout.pack(np.array([group]), np.array([indices]))
    for broken in [*(packet[:n] for n in range(len(packet))), packet + tail, packet + packet]:
        with pytest.raises(Corrupt):
            layout.unpack([broken])


@given(faces(), faces())
def test_a_packet_of_another_model_is_refused(
    one: tuple[PacketFormat, int, list[int]], other: tuple[PacketFormat, int, list[int]]
) -> None:
    packets = one[0].pack(np.array([one[1]]), np.array([one[2]]))
    if one[0].digest[:4] != other[0].digest[:4]:
        with pytest.raises(WrongModel):
            other[0].unpack(packets)


def test_equal_tags_of_different_models_fail_the_checksum() -> None:
    one = PacketFormat(8, 16, 2, DIGEST)
    other = PacketFormat(8, 16, 2, DIGEST[:4] + bytes(28))
    with pytest.raises(Corrupt, match="checksum"):
        other.unpack(one.pack(np.array([1]), np.full((1, 8), 3)))


COMPACT = [(1, [2, 3, 0], "12d8" + "1685f4c7"), (0, [0, 0, 0], "1200" + "f0dffc4f")]


@pytest.mark.parametrize(("group", "indices", "packet"), COMPACT)
def test_compact_golden_bytes(group: int, indices: list[int], packet: str) -> None:
    layout = PacketFormat(3, 4, 2, DIGEST)
    assert [one.hex() for one in layout.pack(np.array([group]), np.array([indices]), compact=True)] == [packet]


@given(faces())
def test_a_compact_packet_is_a_packet_without_its_tag(face: tuple[PacketFormat, int, list[int]]) -> None:
    layout, group, indices = face
    [packet] = layout.pack(np.array([group]), np.array([indices]), compact=True)
    [plain] = layout.pack(np.array([group]), np.array([indices]))
    framed = b"\x12" + plain[5:-4]
    assert packet == framed + zlib.crc32(layout.digest + framed).to_bytes(4, "little")
    assert len(packet) == layout.compact_bytes == layout.payload_bytes + 5
    found_group, found_indices = layout.unpack([packet, plain])
    assert found_group.tolist() == [group] * 2
    assert found_indices.tolist() == [indices] * 2


@settings(max_examples=15)
@given(faces(), st.binary(min_size=1, max_size=40))
def test_every_damage_to_a_compact_packet_is_refused(face: tuple[PacketFormat, int, list[int]], tail: bytes) -> None:
    layout, group, indices = face
    [packet] = layout.pack(np.array([group]), np.array([indices]), compact=True)
    for bit in range(len(packet) * 8):
        broken = bytearray(packet)
        broken[bit // 8] ^= 128 >> bit % 8
        with pytest.raises(PacketError):
            layout.unpack([bytes(broken)])
    for cut in [*(packet[:n] for n in range(len(packet))), packet + tail, packet + packet]:
        with pytest.raises(Corrupt):
            layout.unpack([cut])


def test_a_compact_packet_of_another_model_is_refused() -> None:
    one, other = PacketFormat(8, 16, 2, DIGEST), PacketFormat(8, 16, 2, bytes(32))
    packets = one.pack(np.array([1]), np.full((1, 8), 3), compact=True)
    with pytest.raises(Corrupt, match="or written by another model"):
        other.unpack(packets)
    with pytest.raises(Corrupt, match="or it is another model's: open the bundle that encoded it"):
        PacketFormat(16, 16, 2, bytes(32)).unpack(packets)


@given(st.binary(max_size=200))
def test_garbage_raises_packet_errors_only(content: bytes) -> None:
    with pytest.raises(PacketError):
        PacketFormat(64, 256, 4, DIGEST).unpack([content])


def test_a_huge_packet_is_refused_before_work() -> None:
    with pytest.raises(Corrupt, match="5000 bytes"):
        PacketFormat(64, 256, 4, DIGEST).unpack([b"\x10" + DIGEST[:4] + bytes(4995)])


@pytest.mark.parametrize(("group", "index"), [(4, 0), (-1, 0), (0, 256), (0, -1)])
def test_packing_refuses_tokens_of_another_model(group: int, index: int) -> None:
    with pytest.raises(PacketError, match="outside"):
        PacketFormat(2, 256, 4, DIGEST).pack(np.array([group]), np.array([[0, index]]))
    with pytest.raises(PacketError, match="shape"):
        PacketFormat(3, 256, 4, DIGEST).pack(np.array([0]), np.array([[0, 1]]))
    with pytest.raises(PacketError, match="give integers"):
        PacketFormat(2, 256, 4, DIGEST).pack(np.array([0]), np.array([[0.0, -1.0]]))


@pytest.mark.parametrize("kind", ["i1", "u1", "<i2", ">i2", "<u4", ">i4", "i8", "u8"])
def test_any_integer_type_packs_to_the_same_bytes(kind: str) -> None:
    layout, group, indices = PacketFormat(3, 100, 4, DIGEST), np.array([3, 0]), np.array([[0, 99, 5], [64, 1, 2]])
    assert layout.pack(group.astype(kind), indices.astype(kind)) == layout.pack(group, indices)
    if np.dtype(kind).kind == "i":
        with pytest.raises(PacketError, match="-1 is outside"):
            layout.pack(group.astype(kind), (indices - 1).astype(kind))


def test_batches_are_the_same_as_single_packets() -> None:
    layout, rng = PacketFormat(64, 200, 5, DIGEST), np.random.default_rng(0)
    group, indices = rng.integers(0, 5, 170), rng.integers(0, 200, (170, 64))
    packets = layout.pack(group, indices)
    assert packets == [layout.pack(group[i : i + 1], indices[i : i + 1])[0] for i in range(170)]
    assert np.array_equal(layout.unpack(packets)[1], indices)
    assert layout.unpack([])[1].shape == (0, 64)


def test_files_wrap_packets() -> None:
    [packet] = PacketFormat(2, 4, 1, DIGEST).pack(np.array([0]), np.array([[1, 2]]))
    assert to_file(packet) == b"STCQ" + packet
    assert from_file(to_file(packet)) == from_file(packet) == packet
