"""Erasing faces, by request and by age: they stay away, and a mistake erases nothing."""

from __future__ import annotations

import time

import pytest
from server_clients import Batches, sender, viewer
from starlette.testclient import TestClient
from stcq.server.services import Services, open_services
from stcq.server.store import Selection, now_ms


def test_erased_faces_do_not_come_back(services: Services, client: TestClient, batches: Batches) -> None:
    send, me = sender(services, client), viewer(services)
    send(batches(0, 30))
    assert client.delete("/api/faces", headers=me).status_code == 400
    assert client.delete("/api/faces?since=1005000&until=1010000", headers=me).json() == {"erased": 5}
    one = client.get("/api/faces", headers=me).json()[0]
    assert client.delete(f"/api/faces/{one['id']}", headers=me).json() == {"erased": 1}
    assert client.delete("/api/faces?since=1010000&until=1012000", headers=me).json() == {"erased": 2}
    status, answer = send(batches(0, 30))
    assert (status, answer["stored"]) == (200, 0)
    assert client.delete("/api/faces?device=door-1", headers=me).json() == {"erased": 22}
    assert send(batches(0, 31))[1]["stored"] == 1
    with services.store.engine.connect() as db:
        ranges = db.exec_driver_sql("select first, last from erased").all()
    assert [tuple(r) for r in ranges] == [(0, 29)]  # neighbours grow together


def test_other_faces_under_erased_numbers_are_a_conflict(
    services: Services, client: TestClient, batches: Batches
) -> None:
    """A device that was restored from an older copy of its disk numbers new faces as it had numbered erased ones."""
    send = sender(services, client)
    send(batches(0, 20))
    assert services.erase(Selection(device="door-1")) == 20
    assert send(batches(5, 10))[1]["stored"] == 0  # the same ones again
    status, answer = send(batches(5, 10, seed=1, time=2_000_000))
    assert (status, answer["kind"]) == (409, "Conflict")
    assert send(batches(0, 10, epoch=6, seed=1, time=2_000_000))[1]["stored"] == 10
    assert len(services.store.faces(Selection(), 100)) == 10


@pytest.mark.parametrize("question", ["device=door-1&before=3", "device=door-1&untill=2026-01-01", "limit=5&since=1"])
def test_a_misspelt_erasure_erases_nothing(
    services: Services, client: TestClient, batches: Batches, question: str
) -> None:
    sender(services, client)(batches(0, 5))
    answer = client.delete(f"/api/faces?{question}", headers=viewer(services))
    assert answer.status_code == 400
    assert "by device, since and until only" in answer.json()["detail"]
    assert len(services.store.faces(Selection(), 100)) == 5


def test_dates_without_dashes_are_dates(services: Services, client: TestClient, batches: Batches) -> None:
    sender(services, client)(batches(0, 5))  # of 1970
    me = viewer(services)
    assert client.get("/api/faces?since=19700102", headers=me).json() == []
    assert client.delete("/api/faces?since=20261101", headers=me).json() == {"erased": 0}
    assert client.delete("/api/faces?until=20261101120000", headers=me).status_code == 400
    assert len(services.store.faces(Selection(), 100)) == 5


def test_a_clock_that_is_set_changes_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    before = now_ms()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert before <= now_ms() < before + 60_000


def test_old_faces_expire(database: str, batches: Batches) -> None:
    services = open_services(database, keep_days=1e-6, threads=1)
    token = services.tokens.add("door-1")
    services.ingest.accept(services.ingest.identify(token), batches(0, 5))
    time.sleep(0.1)
    from stcq.server.app import make_app

    with TestClient(make_app(services)):
        for _ in range(100):
            if not services.store.faces(Selection()):
                break
            time.sleep(0.1)
    assert services.store.faces(Selection()) == []
    services.close()
