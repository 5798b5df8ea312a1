"""The uploader against servers that misbehave (real HTTP, answers made up here)."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from stcq.runtime.batch import Batch, pack_batch, unpack_batch
from stcq.runtime.camera.config import read_config
from stcq.runtime.camera.spool import Spool
from stcq.runtime.camera.transport import open_transport
from stcq.runtime.camera.upload import Uploader
from stcq.runtime.packet import PacketFormat
from stcq.runtime.record import Face, Record

LAYOUT = PacketFormat(64, 256, 4, bytes(range(32)))
Answer = Callable[[Batch], tuple[int, Any]]


def fine(batch: Batch) -> tuple[int, Any]:
    return 200, {"epoch": batch.epoch, "first": batch.first, "count": len(batch.faces)}


class MisbehavingServer:
    """Answers each batch by the next of `answers`, then well; keeps what it has acknowledged."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.rule: Answer = fine
        self.seen: list[tuple[float, int]] = []
        self.kept: list[int] = []
        self.epochs: list[int] = []
        self.idle: float | None = None  # seconds after which a quiet connection is closed
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                self.timeout = server.idle
                super().setup()

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                batch = unpack_batch(content, {LAYOUT.digest: LAYOUT})
                server.seen.append((time.monotonic(), len(content)))
                status, answer = (server.answers.pop(0) if server.answers else server.rule)(batch)
                if status == 200 and isinstance(answer, dict):
                    server.kept += [int.from_bytes(face.payload[:8], "big") for face in batch.faces]
                    server.epochs.append(batch.epoch)
                text = json.dumps(answer).encode() if not isinstance(answer, bytes) else answer
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[MisbehavingServer]:
    started = MisbehavingServer()
    yield started
    started.close()


def upload(folder: Path, server: MisbehavingServer, count: int, more: str = "") -> tuple[Spool, Uploader]:
    """Spool faces 0 .. count - 1, send them, wait until they are gone."""
    path = folder / "camera.toml"
    path.write_text(f'device = "d"\n[upload]\nurl = "{server.url}"\ninterval = 0.0\nmax_delay = 0.05\n{more}\n')
    config = read_config(path)
    spool = Spool(folder / "spool.db")
    faces = [(LAYOUT.digest, n.to_bytes(8, "big") + bytes(57), Record(n)) for n in range(count)]
    assert spool.append(faces) == count
    uploader = Uploader(spool, open_transport(config), "d", config.upload)
    uploader.start()
    end = time.monotonic() + 30
    while len(spool) and time.monotonic() < end:
        time.sleep(0.01)
    assert not len(spool), uploader.status
    uploader.stop(1)
    return spool, uploader


def test_only_an_acknowledgement_deletes(tmp_path: Path, server: MisbehavingServer) -> None:
    server.answers = [
        lambda b: (200, b"<html>Welcome to our hotel's network</html>"),
        lambda b: (200, {"epoch": b.epoch, "first": b.first + 1, "count": len(b.faces)}),
        lambda b: (200, ["yes"]),
        lambda b: (302, b""),
        lambda b: (503, {"error": "later"}),
        lambda b: (401, {"error": "token"}),
        lambda b: (415, {"error": "model"}),
    ]
    spool, _ = upload(tmp_path, server, 30)
    assert server.kept[-30:] == list(range(30))
    assert spool.counters["delivered"] == 30
    assert len(server.seen) == 8
    spool.close()


def test_batches_become_smaller_when_they_are_too_large(tmp_path: Path, server: MisbehavingServer) -> None:
    server.rule = lambda b: fine(b) if len(b.faces) <= 5 else (413, {})
    spool, _ = upload(tmp_path, server, 40)
    assert server.kept == list(range(40))
    spool.close()


def test_one_bad_face_does_not_block_the_others(tmp_path: Path, server: MisbehavingServer) -> None:
    def rule(batch: Batch) -> tuple[int, Any]:
        bad = any(int.from_bytes(face.payload[:8], "big") == 13 for face in batch.faces)
        return (422, {"kind": "Corrupt", "error": "bad face"}) if bad else fine(batch)

    server.rule = rule
    spool, _ = upload(tmp_path, server, 40)
    assert server.kept == [n for n in range(40) if n != 13]
    assert (spool.counters["refused"], spool.counters["delivered"]) == (1, 39)
    spool.close()


@pytest.mark.parametrize("kind", [{"kind": "Corrupt"}, {}])
def test_a_batch_damaged_on_the_way_and_a_proxys_no_give_no_face_up(
    tmp_path: Path, server: MisbehavingServer, kind: dict[str, str]
) -> None:
    """One refusal of a face alone may be the way's fault; one that stcq did not word may be any time's."""
    refusals = [0] * 20

    def rule(batch: Batch) -> tuple[int, Any]:
        number = int.from_bytes(batch.faces[0].payload[:8], "big")
        refusals[number] += 1
        damaged = number in (3, 4) and refusals[number] <= (1 if kind else 3)
        return (422, kind | {"error": "damaged: send it again"}) if damaged else fine(batch)

    server.rule = rule
    spool, _ = upload(tmp_path, server, 8, "batch_faces = 1")
    assert server.kept == list(range(8))
    assert spool.counters["refused"] == 0
    spool.close()


def test_a_server_that_refuses_everything_loses_nothing(tmp_path: Path, server: MisbehavingServer) -> None:
    server.answers = [lambda b: (422, {"kind": "Corrupt", "error": "not sealed"})] * 30
    spool, _ = upload(tmp_path, server, 20)
    assert server.kept == list(range(20))
    assert spool.counters["refused"] == 0
    spool.close()


@pytest.mark.parametrize("outages", [0, 1, 3])
def test_a_conflict_draws_a_new_epoch(tmp_path: Path, server: MisbehavingServer, outages: int) -> None:
    old: list[int] = []

    def conflict(batch: Batch) -> tuple[int, Any]:
        old.append(batch.epoch)
        return (409, {"error": "other faces"}) if batch.epoch == old[0] else fine(batch)

    server.answers = [lambda b: (503, {"error": "later"})] * outages
    server.rule = conflict
    spool, _ = upload(tmp_path, server, 20)
    assert server.kept == list(range(20))
    assert server.epochs[0] not in old[:1]
    spool.close()


def test_what_the_server_has_of_a_restored_disk_is_not_numbered_anew(tmp_path: Path, server: MisbehavingServer) -> None:
    """The first 13 faces are on both, the others only here, under numbers that other faces have there."""
    first: list[int] = []

    def rule(batch: Batch) -> tuple[int, Any]:
        first.append(batch.epoch)
        other = any(int.from_bytes(face.payload[:8], "big") >= 13 for face in batch.faces)
        return (409, {"error": "other faces"}) if other and batch.epoch == first[0] else fine(batch)

    server.rule = rule
    spool, _ = upload(tmp_path, server, 20)
    assert server.kept == list(range(20))  # each face once
    spool.close()


def test_a_server_that_never_takes_a_face_is_asked_ever_less(tmp_path: Path, server: MisbehavingServer) -> None:
    server.answers = [lambda b: (409, {"error": "other faces"})] * 12
    spool, _ = upload(tmp_path, server, 8)
    epochs = spool.epoch
    assert server.kept == list(range(8))
    assert set(server.epochs) == {epochs}  # one renewal, not twelve
    spool.close()


def test_a_link_that_is_too_slow_gets_smaller_batches(tmp_path: Path, server: MisbehavingServer) -> None:
    server.rule = lambda b: fine(b) if len(b.faces) <= 5 else (408, {"error": "did not come in time"})
    spool, _ = upload(tmp_path, server, 40)
    assert server.kept == list(range(40))
    spool.close()


def test_a_server_that_answers_large_batches_never(tmp_path: Path, server: MisbehavingServer) -> None:
    def rule(batch: Batch) -> tuple[int, Any]:
        if len(batch.faces) > 10:
            time.sleep(0.6)
        return fine(batch)

    server.rule = rule
    spool, _ = upload(tmp_path, server, 40, "timeout = 0.3\n")
    assert sorted(set(server.kept)) == list(range(40))
    assert len(server.seen) < 20
    spool.close()


def test_a_connection_that_the_server_closed_meanwhile_is_no_failure(
    tmp_path: Path, server: MisbehavingServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.idle = 0.2
    spool, _ = upload(tmp_path, server, 3)
    config = read_config(tmp_path / "camera.toml")
    transport = open_transport(config)
    for first in range(3):
        batch = Batch("d", spool.epoch, first, LAYOUT.digest, [Face(bytes(65))])
        assert transport.send(pack_batch(batch), str(first)).status == 200
        time.sleep(0.5)
    transport.close()
    spool.close()


def test_the_bandwidth_cap_holds(tmp_path: Path, server: MisbehavingServer) -> None:
    spool, _ = upload(tmp_path, server, 300, 'batch_faces = 20\nmax_rate = "20 kB/s"\n')
    first, last = server.seen[0][0], server.seen[-1][0]
    sent = sum(size for _, size in server.seen[:-1])
    assert sent / (last - first) <= 20_000
    assert server.kept == list(range(300))
    spool.close()
