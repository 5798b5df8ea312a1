"""Batches: golden bytes, properties, seals, and everything a reader must refuse."""

from __future__ import annotations

import binascii
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stcq import errors
from stcq.errors import Corrupt, PacketError, StcqError, UnsupportedVersion, WrongModel
from stcq.runtime import batch as module
from stcq.runtime.batch import Batch, CutBatch, pack_batch, peek_device, unpack_batch
from stcq.runtime.packet import PacketFormat
from stcq.runtime.record import Face, Record
from stcq.runtime.sealing import read_key

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "batches.json").read_text())["models"]
LAYOUT = PacketFormat(64, 256, 4, bytes(range(32)))
KNOWN = {LAYOUT.digest: LAYOUT}


def make(count: int = 3, seed: int = 0, records: bool = True, **fields: object) -> Batch:
    rng = np.random.default_rng(seed)
    payloads = LAYOUT.pack_payload(rng.integers(0, 4, count), rng.integers(0, 256, (count, 64)))
    faces = [
        Face(p.tobytes(), Record(1000 + i, i, (1, 2, 3, 4), 250, 9) if records else None)
        for i, p in enumerate(payloads)
    ]
    values: dict = {"device": "door-1", "epoch": 7, "first": 41, "digest": LAYOUT.digest, "faces": faces, "time": 900}
    return Batch(**(values | fields))


@pytest.mark.parametrize("model", VECTORS, ids=lambda m: f"T{m['T']}-K{m['K']}-M{m['M']}")
def test_golden_vectors(model: dict) -> None:
    layout = PacketFormat(model["T"], model["K"], model["M"], bytes.fromhex(model["digest"]))
    for case in model["accepted"]:
        faces = []
        for payload, record in case["faces"]:
            kept = Record(*record[:2], tuple(record[2]), *record[3:]) if record else None
            faces.append(Face(bytes.fromhex(payload), kept))
        batch = Batch(case["device"], case["epoch"], case["first"], layout.digest, faces, case["time"])
        assert pack_batch(batch).hex() == case["batch"]
        assert unpack_batch(bytes.fromhex(case["batch"]), {layout.digest: layout}) == batch
    for case in model["refused"]:
        with pytest.raises(PacketError) as caught:
            unpack_batch(bytes.fromhex(case["batch"]), {layout.digest: layout})
        assert type(caught.value).__name__ == case["error"]
    assert len(model["refused"]) >= 64
    assert errors.PacketError is PacketError


def test_a_face_costs_its_payload_and_three_or_fifteen_bytes() -> None:
    for records, cost in ((False, 3), (True, 15)):
        one, many = (len(pack_batch(make(n, records=records))) for n in (1, 101))
        assert many - one == 100 * (LAYOUT.payload_bytes + cost)
    assert one - LAYOUT.payload_bytes - cost == 64 + len("door-1") + 4


def slow_pack(batch: Batch) -> bytes:
    """docs/bitstream.md word by word."""
    head = b"STCB\x10" + batch.digest
    for value, width in ((batch.epoch, 8), (batch.first, 8), (batch.time, 8), (len(batch.faces), 2)):
        head += value.to_bytes(width, "little")
    head += bytes([len(batch.device)]) + batch.device.encode()
    packed = head
    for place, (payload, record) in enumerate(batch.faces):
        body = payload + (b"\x0c" if record else b"\0")
        if record:
            body += (record.time - batch.time).to_bytes(4, "little", signed=True)
            body += record.track.to_bytes(2, "little") + bytes(record.box) + bytes([record.score, record.sharpness])
        crc = binascii.crc_hqx(head + place.to_bytes(2, "little") + body, 0)
        packed += body + crc.to_bytes(2, "little")
    return packed + zlib.crc32(packed).to_bytes(4, "little")


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(0, 999), st.booleans(), st.sampled_from([None, bytes(32)]))
def test_round_trip(count: int, seed: int, records: bool, key: bytes | None) -> None:
    batch = make(count, seed, records)
    packed = pack_batch(batch, key)
    assert unpack_batch(packed, KNOWN, [key] if key else []) == batch
    assert peek_device(packed) == "door-1"
    if key is None:
        assert packed == slow_pack(batch)


def test_every_bit_flip_and_truncation_is_refused() -> None:
    for key in (None, bytes(32)):
        packed = pack_batch(make(2), key)
        broken = [packed[:n] for n in range(len(packed))]
        for bit in range(len(packed) * 8):
            flipped = bytearray(packed)
            flipped[bit // 8] ^= 1 << bit % 8
            broken.append(bytes(flipped))
        for content in broken:
            with pytest.raises((Corrupt, UnsupportedVersion)):
                unpack_batch(content, KNOWN, [bytes(32)])


def test_a_cut_batch_yields_its_whole_faces() -> None:
    batch = make(10)
    packed = pack_batch(batch)
    with pytest.raises(CutBatch, match="6 of 10 faces are lost") as caught:
        unpack_batch(packed[: 70 + 4 * 80 + 30], KNOWN)
    assert caught.value.faces == list(enumerate(batch.faces[:4]))
    damaged = bytearray(packed)
    damaged[70 + 3 * 80 + 5] ^= 1
    with pytest.raises(CutBatch) as caught:
        unpack_batch(bytes(damaged), KNOWN)
    assert [place for place, _ in caught.value.faces] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_faces_cannot_change_places_or_batches() -> None:
    packed = pack_batch(make(3))
    swapped = packed[:70] + packed[150:230] + packed[70:150] + packed[230:-4]
    with pytest.raises(Corrupt, match="face 0"):
        unpack_batch(swapped + zlib.crc32(swapped).to_bytes(4, "little"), KNOWN)
    other = packed[:45] + (99).to_bytes(8, "little") + packed[53:-4]
    with pytest.raises(Corrupt, match="face 0"):
        unpack_batch(other + zlib.crc32(other).to_bytes(4, "little"), KNOWN)


def test_a_sealed_batch_needs_its_key_and_its_header() -> None:
    packed = pack_batch(make(3), b"k" * 32)
    assert make(3).faces[0].payload not in packed
    assert unpack_batch(packed, KNOWN, [b"x" * 32, b"k" * 32]) == make(3)
    for keys in ([], [b"x" * 32]):
        with pytest.raises(Corrupt, match="key"):
            unpack_batch(packed, KNOWN, keys)
    moved = packed.replace(b"door-1", b"door-2")[:-4]
    with pytest.raises(Corrupt, match="forged"):
        unpack_batch(moved + zlib.crc32(moved).to_bytes(4, "little"), KNOWN, [b"k" * 32])


def test_models_and_limits() -> None:
    with pytest.raises(WrongModel, match="00010203"):
        unpack_batch(pack_batch(make()), {})
    with pytest.raises(Corrupt, match="limit"):
        unpack_batch(b"STCB" + bytes(module.MAX_BATCH), KNOWN)
    face = make(1).faces
    for wrong in (
        make(device="../etc"),
        make(device=""),
        make(faces=[]),
        make(epoch=1 << 63),
        make(first=-1),
        make(digest=bytes(31)),
        make(faces=[face[0], Face(b"short")]),
        make(faces=[Face(face[0].payload, Record(1 << 40))]),
        make(faces=[Face(face[0].payload, Record(0, score=300))]),
        make(faces=face * 14000),
    ):
        with pytest.raises(PacketError):
            pack_batch(wrong)


@given(st.binary(max_size=400))
def test_garbage_raises_packet_errors_only(content: bytes) -> None:
    for data in (content, b"STCB\x10" + content, b"STCB\x11" + LAYOUT.digest + content):
        with pytest.raises(PacketError):
            unpack_batch(data, KNOWN, [bytes(32)])


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = bytes(range(32))
    for content in (key, key.hex().encode() + b"\n", binascii.b2a_base64(key)):
        (tmp_path / "key").write_bytes(content)
        assert read_key(str(tmp_path / "key")) == key
    monkeypatch.setenv("STCQ_KEY", key.hex())
    assert read_key("env:STCQ_KEY") == key
    (tmp_path / "key").write_text("secret")
    for source in (str(tmp_path / "key"), "env:NOT_SET", str(tmp_path / "none")):
        with pytest.raises(StcqError, match="openssl rand"):
            read_key(source)
