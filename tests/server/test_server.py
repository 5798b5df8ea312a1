"""The server's application: what it stores, what it refuses, what viewers see; on both databases."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from server_clients import Batches, sender, viewer
from starlette.testclient import TestClient
from stcq.errors import ServerError
from stcq.runtime.batch import MAX_BATCH, unpack_batch
from stcq.runtime.codec import Codec
from stcq.server.services import Services
from stcq.server.store import Selection


def test_every_face_is_stored_once(services: Services, client: TestClient, batches: Batches) -> None:
    send = sender(services, client)
    status, answer = send(batches(0, 10))
    assert (status, answer) == (
        200,
        {"device": "door-1", "epoch": 5, "first": 0, "count": 10, "stored": 10, "duplicates": 0},
    )
    assert send(batches(0, 10))[1]["duplicates"] == 10  # replayed
    assert send(batches(5, 10))[1]["stored"] == 5  # overlapping
    assert send(batches(0, 10, epoch=6))[1]["stored"] == 10  # another epoch
    rows = services.store.faces(Selection(), 100)
    assert len({(r.device, r.epoch, r.sequence) for r in rows}) == len(rows) == 25
    batch = unpack_batch(batches(0, 15), services.pictures.layouts)
    stored = {r.sequence: bytes(r.payload) for r in rows if r.epoch == 5}
    assert stored == {n: face.payload for n, face in enumerate(batch.faces)}


def test_other_faces_under_the_same_numbers_are_a_conflict(
    services: Services, client: TestClient, batches: Batches
) -> None:
    send = sender(services, client)
    send(batches(0, 5))
    status, answer = send(batches(3, 5, seed=1))
    assert (status, answer["kind"]) == (409, "Conflict")
    assert len(services.store.faces(Selection(), 100)) == 5


def test_what_is_refused(services: Services, client: TestClient, batches: Batches, tmp_path: Path) -> None:
    send = sender(services, client)
    good = batches()
    post = client.post
    assert post("/v1/batches", content=good).status_code == 401
    assert post("/v1/batches", content=good, headers={"Authorization": "Bearer stcq_guess"}).status_code == 401
    assert post("/v1/batches", content=good, headers=viewer(services)).status_code == 401
    assert send(batches(device="door-2"))[0] == 403  # another device's batch
    assert send(good[:-1])[0] == 422
    assert send(good[:100] + b"\0" + good[101:])[0] == 422
    assert send(b"")[0] == 422
    assert send(batches(digest=bytes(32)))[1]["kind"] == "WrongModel"
    assert send(bytes(MAX_BATCH + 1))[0] == 413
    token = {"Authorization": f"Bearer {services.tokens.add('door-1')}"}
    endless = (bytes(100_000) for _ in range(20))  # no length announced: it is counted while it comes
    assert post("/v1/batches", content=endless, headers=token).status_code == 413
    assert services.store.faces(Selection()) == []
    key = bytes(range(32))
    assert send(batches(key=key))[1]["kind"] == "OtherKey"
    (tmp_path / "keys" / "door-1.key").write_bytes(b"no key")
    assert send(batches(key=key))[0] == 503  # the server's fault: the device shall try again
    (tmp_path / "keys" / "door-1.key").write_bytes(key)
    assert send(batches(key=bytes(32)))[1] == send(batches(key=bytes(32)))[1] | {"status": 403, "kind": "OtherKey"}
    assert send(good)[1] == send(good)[1] | {"status": 403, "kind": "NotSealed"}
    assert send(batches(key=key))[0] == 200


def test_tokens_are_hashed_and_revocable(services: Services, client: TestClient, batches: Batches) -> None:
    send = sender(services, client)
    assert send(batches())[0] == 200
    rows = services.tokens.list()
    assert "stcq_" not in str(rows)
    assert services.tokens.revoke("door-1") == 1
    assert send(batches(3))[0] == 401
    with pytest.raises(ServerError, match="letters"):
        services.tokens.add("../door")


def test_viewers_list_filter_and_look(services: Services, client: TestClient, batches: Batches, codec: Codec) -> None:
    sender(services, client)(batches(0, 20))
    sender(services, client, "gate")(batches(0, 2, device="gate", time=5_000_000))
    me = viewer(services)
    assert client.get("/api/faces").status_code == 401
    everything = client.get("/api/faces", headers=me).json()
    assert len(everything) == 22
    assert [f["id"] for f in everything] == sorted((f["id"] for f in everything), reverse=True)
    some = client.get("/api/faces?device=door-1&since=1005000&until=1970-01-01T00:16:50", headers=me).json()
    assert [f["sequence"] for f in some] == ["9", "8", "7", "6", "5"]
    page = client.get(f"/api/faces?before={everything[4]['id']}&limit=3", headers=me).json()
    assert page == everything[5:8]
    assert client.get("/api/faces?since=yesterday", headers=me).status_code == 400
    face = client.get(f"/api/faces/{some[0]['id']}", headers=me).json()
    packet = bytes.fromhex(face["packet"])
    group, indices = codec.bundle.manifest.codec.packets.unpack([packet])
    assert (face["group"], face["indices"]) == (int(group[0]), indices[0].tolist())
    expected = codec.decode(packet)
    for suffix, exact in (("png", True), ("webp", False), ("jpg", False)):
        answer = client.get(f"/api/faces/{face['id']}/picture.{suffix}", headers=me)
        assert answer.headers["cache-control"] == "no-store"  # nor does an erased face stay in a browser
        picture = np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGB"))
        assert (picture == expected).all() if exact else np.abs(picture.astype(int) - expected).mean() < 8
    file = client.get(f"/api/faces/{face['id']}/packet.stcq", headers=me).content
    decoded = client.post("/api/decode?format=png", content=file, headers=me).content
    assert (np.asarray(Image.open(io.BytesIO(decoded))) == expected).all()
    assert client.post("/api/decode", content=file[:-1], headers=me).status_code == 422
    [compact] = codec.bundle.manifest.codec.packets.pack(group, indices, compact=True)
    decoded = client.post("/api/decode?format=png", content=compact, headers=me).content
    assert (np.asarray(Image.open(io.BytesIO(decoded))) == expected).all()
    assert client.post("/api/decode", content=compact[:-1], headers=me).status_code == 422
    assert client.get("/api/faces/999999", headers=me).status_code == 404
    assert client.get(f"/api/faces/{1 << 70}", headers=me).status_code == 404
    assert client.get(f"/api/faces/{face['id']}/picture.exe", headers=me).status_code == 422
    stats = client.get("/api/stats", headers=me).json()
    assert (stats["faces"], stats["bytes"]) == (22, 22 * 65)
    assert stats["jpeg_bytes"] > stats["bytes"]
    assert [d["device"] for d in stats["devices"]] == ["door-1", "gate"]


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_while_the_folder_of_keys_is_away_nothing_comes_in(
    services: Services, client: TestClient, batches: Batches, tmp_path: Path
) -> None:
    send = sender(services, client)
    assert send(batches(0, 2))[0] == 200
    (tmp_path / "keys").rename(tmp_path / "away")
    assert send(batches(2, 2))[0] == 503
    (tmp_path / "away").rename(tmp_path / "keys")
    assert send(batches(2, 2))[0] == 200


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_only_its_user_reads_a_database(services: Services, tmp_path: Path) -> None:
    assert (tmp_path / "faces.db").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "question", ["before=99999999999999999999", "after=-1", "since=--5", "since=\N{SUPERSCRIPT TWO}"]
)
def test_questions_that_make_no_sense_are_refused(services: Services, client: TestClient, question: str) -> None:
    me = viewer(services)
    assert client.get(f"/api/faces?{question}", headers=me).status_code in (400, 422)
    if question.startswith("since"):
        assert client.delete(f"/api/faces?{question}", headers=me).status_code == 400


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_database_that_does_not_answer_is_for_later(services: Services, client: TestClient) -> None:
    me = viewer(services)
    with services.store.engine.begin() as db:
        db.exec_driver_sql("alter table faces rename to elsewhere")
    assert client.get("/api/faces", headers=me).status_code == 503


def test_the_same_batch_from_many_threads(services: Services, batches: Batches) -> None:
    content, answers = batches(0, 50), []
    threads = [
        threading.Thread(target=lambda: answers.append(services.ingest.accept("door-1", content))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 8
    assert sum(answer["stored"] for answer in answers) == 50
    assert len(services.store.faces(Selection(), 1000)) == 50


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_a_full_disk_is_for_later(services: Services, client: TestClient, batches: Batches) -> None:
    send = sender(services, client)
    assert send(batches(0, 10))[0] == 200
    with services.store.engine.connect() as db:  # SQLite itself then says that the disk is full
        pages = db.exec_driver_sql("pragma page_count").scalar()
        db.exec_driver_sql(f"pragma max_page_count={pages}")
    token = {"Authorization": f"Bearer {services.tokens.add('door-1')}"}
    answer = client.post("/v1/batches", content=batches(10, 2000), headers=token)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert len(services.store.faces(Selection(), 10_000)) == 10  # all or nothing
    with services.store.engine.connect() as db:
        db.exec_driver_sql("pragma max_page_count=1000000")
    assert send(batches(10, 2000))[1]["stored"] == 2000


def test_signing_in_metrics_and_health(services: Services, client: TestClient, batches: Batches) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").status_code == 200
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.post("/login", data={"token": "no"}, follow_redirects=False).headers["location"] == "/?refused"
    assert client.get("/api/faces").status_code == 401
    answer = client.post("/login", data={"token": services.link_token}, follow_redirects=False)
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert client.get("/api/faces").status_code == 200
    sender(services, client)(batches(0, 4))
    sender(services, client)(batches(0, 4))
    text = client.get("/metrics").text
    for line in (
        'stcq_faces_stored_total{device="door-1"} 4.0',
        'stcq_faces_duplicate_total{device="door-1"} 4.0',
        'stcq_batches_total{result="stored"} 2.0',
        "stcq_ingest_seconds_count 2.0",
    ):
        assert line in text
    client.post("/logout")
    assert client.get("/metrics").status_code == 401
