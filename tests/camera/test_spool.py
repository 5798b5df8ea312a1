"""The spool on a real disk: order, bounds, kill -9, damaged files, a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stcq.errors import SpoolError
from stcq.runtime.camera.spool import Spool
from stcq.runtime.record import Record

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
DIGEST = bytes(range(32))


def face(number: int, size: int = 65) -> tuple[bytes, bytes, Record]:
    return DIGEST, number.to_bytes(4, "big") + bytes(size - 4), Record(1_000_000 + number, number % 65536, score=7)


def numbers(spool: Spool, limit: int = 10**6) -> list[int]:
    """Take everything out, as the uploader would."""
    found: list[int] = []
    while faces := spool.peek(limit):
        found += [int.from_bytes(stored.payload[:4], "big") for stored in faces]
        spool.remove(faces[-1].id)
    return found


def test_first_in_first_out_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path)
    assert spool.append([face(i) for i in range(10)]) == 10
    epoch = spool.epoch
    spool.remove(spool.peek(4)[-1].id)
    spool.close()
    spool = Spool(path)
    assert (spool.epoch, len(spool)) == (epoch, 6)
    spool.append([face(10)])
    stored = spool.peek(100)
    assert [s.sequence for s in stored] == list(range(4, 11))
    assert stored[-1][3:] == face(10)
    assert numbers(spool) == list(range(4, 11))
    assert (spool.counters["accepted"], spool.counters["delivered"], spool.size) == (11, 11, 0)
    spool.close()
    empty = Spool(path)  # sequences go on though no row is left
    empty.append([face(0)])
    assert empty.peek(1)[0].sequence == 11
    empty.close()


def test_bounds_and_policies_count_every_drop(tmp_path: Path) -> None:
    reject = Spool(tmp_path / "a.db", max_bytes=20_000)
    kept = sum(reject.append([face(10 * n + i) for i in range(10)]) for n in range(30))
    assert 50 < kept < 300
    assert reject.counters["rejected_new"] == 300 - kept
    assert reject.size <= 20_000
    assert numbers(reject)[:kept] == list(range(kept))
    drop = Spool(tmp_path / "b.db", max_bytes=20_000, policy="drop-oldest")
    assert sum(drop.append([face(10 * n + i) for i in range(10)]) for n in range(30)) == 300
    left = numbers(drop)
    assert left == list(range(300 - len(left), 300))
    assert drop.counters["dropped_oldest"] == 300 - len(left)
    for spool in (reject, drop):
        spool.close()
        assert spool.path.stat().st_size < 300_000


def test_batches_hold_what_belongs_together(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.append([face(i) for i in range(5)])
    spool.append([(bytes(32), b"other model", Record(1))])
    spool.append([face(6)])
    spool.append([(DIGEST, bytes(65), Record(1 << 40))])  # a clock that jumped 34 years
    sizes = []
    while faces := spool.peek(100):
        sizes.append(len(faces))
        spool.remove(faces[-1].id)
    assert sizes == [5, 1, 1, 1]
    spool.append([face(i) for i in range(50)])
    assert len(spool.peek(100, max_bytes=800)) == 10
    spool.close()


def test_refused_faces_block_nobody_and_are_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.append([face(i) for i in range(3)])
    spool.refuse(spool.peek(1)[0].id, "the server said no")
    assert numbers(spool) == [1, 2]
    assert spool.counters["refused"] == 1
    spool.close()


def test_a_new_epoch_renames_what_waits(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.append([face(i) for i in range(9)])
    spool.remove(spool.peek(3)[-1].id)
    before = spool.epoch
    spool.renew_epoch()
    spool.append([face(9)])
    stored = spool.peek(100)
    assert spool.epoch != before
    assert {s.epoch for s in stored} == {spool.epoch}
    assert [s.sequence for s in stored] == list(range(7))
    assert numbers(spool) == list(range(3, 10))
    spool.close()


def test_sealed_on_disk(tmp_path: Path) -> None:
    path, key = tmp_path / "spool.db", b"k" * 32
    spool = Spool(path, key=key)
    secret = DIGEST, b"SECRET-FACE" + bytes(54), Record(5)
    spool.append([secret])
    spool.close()
    assert b"SECRET-FACE" not in path.read_bytes()
    for wrong in (None, b"x" * 32):
        with pytest.raises(SpoolError, match="key"):
            Spool(path, key=wrong)
    spool = Spool(path, key=key)
    assert spool.peek(1)[0][3:] == secret
    spool.close()


def test_delivered_faces_leave_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path)
    spool.append([(DIGEST, b"SECRET-FACE" + bytes(54), Record(5))])
    spool.remove(spool.peek(1)[0].id)
    spool.close()
    assert b"SECRET-FACE" not in path.read_bytes()


def test_one_process_per_spool_and_usable_folders(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    with pytest.raises(SpoolError, match="another process"):
        Spool(tmp_path / "spool.db")
    spool.close()
    with pytest.raises(SpoolError, match="does not exist"):
        Spool(tmp_path / "none" / "spool.db")
    with pytest.raises(SpoolError, match="no file"):
        Spool(tmp_path)
    with pytest.raises(SpoolError, match="policy"):
        Spool(tmp_path / "x.db", policy="hope")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 10_000, b"not a database", bytes(range(256)) * 64, b"SQLite format 3\0"]
)
def test_starts_from_any_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "spool.db"
    path.write_bytes(content)
    (tmp_path / "spool.db-wal").write_bytes(content)
    spool = Spool(path)
    spool.append([face(1)])
    assert numbers(spool) == [1]
    assert (tmp_path / "spool.db.quarantine").exists() == (spool.counters["quarantines"] > 0)
    spool.close()


def test_damage_while_running_is_survived(tmp_path: Path) -> None:
    path = tmp_path / "spool.db"
    spool = Spool(path)
    for start in range(0, 3000, 100):
        spool.append([face(start + i) for i in range(100)])
    spool.close()
    spool = Spool(path)
    with path.open("r+b") as file:  # one leaf page of 23
        file.seek(20 * 4096)
        file.write(bytes(4096))
    left = numbers(spool, 50)
    assert left == sorted(set(left))
    assert len(left) >= 3000 - 40
    assert spool.append([face(5000)]) == 1
    assert numbers(spool) == [5000]
    spool.close()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_spool import Spool, face
spool, number = Spool(Path({path!r})), int({start})
while True:
    kept = spool.append([face(number + i) for i in range(7)])
    number += kept
    print(number, flush=True)
"""


def test_what_was_accepted_survives_kill_9(tmp_path: Path) -> None:
    path, accepted, seen = tmp_path / "spool.db", 0, []
    for round_number in range(8):
        code = WRITER.format(tests=str(Path(__file__).parent), path=str(path), start=accepted)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.013 * round_number)
        process.send_signal(signal.SIGKILL)
        lines = process.communicate()[0].split()
        reported = int(lines[-1]) if lines else accepted + 7
        spool = Spool(path)
        stored = spool.peek(10**5, 10**8)
        assert [s.sequence for s in stored] == list(range(stored[0].sequence, stored[0].sequence + len(stored)))
        found = numbers(spool)
        spool.close()
        assert len(found) >= reported - accepted
        assert found[0] == accepted
        accepted += len(found)
        seen += found
    assert seen == list(range(accepted))


def run(script: str, *arguments: str) -> dict:
    result = subprocess.run([sys.executable, BENCHMARKS / script, *arguments], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_every_page_damaged_in_turn(tmp_path: Path) -> None:
    figures = run("spool_damage.py", "--faces", "2000", "--every", "25")
    assert figures["cases"] > 30
    assert figures["failed_starts"] == figures["undamaged_faces_lost"] == figures["faces_twice"] == 0


@pytest.mark.skipif(shutil.which("cc") is None or os.name != "posix", reason="needs a C compiler to fail single writes")
def test_disk_full_at_every_write() -> None:
    figures = run("disk_full.py", "--every", "14")
    assert figures["cases"] >= 8
    assert figures["accepted_faces_lost"] == figures["faces_twice"] == 0
    assert figures["failures_injected"] >= 7


def test_a_damaged_face_stays_damaged_when_the_epoch_is_renewed(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.append([face(i) for i in range(4)])
    spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as db:
        [(entry,)] = db.execute("select entry from faces where id = 1").fetchall()
        flipped = entry[:-20] + bytes([entry[-20] ^ 1]) + entry[-19:]
        db.execute("update faces set entry = ? where id = 1", (flipped,))
        db.execute("update faces set entry = ? where id = 2", (b"short",))
    db.close()
    spool = Spool(tmp_path / "spool.db")
    old = spool.epoch
    spool.renew_epoch()
    assert spool.epoch != old
    assert numbers(spool) == [0, 3]
    assert spool.counters["damaged"] == 2
    spool.close()


def test_a_spool_that_cannot_be_opened_gathers_nothing_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool.db")
    spool.append([face(i) for i in range(50)])
    shutil.copy(tmp_path / "spool.db-wal", tmp_path / "wal")
    spool.close()
    spool = Spool(tmp_path / "spool.db")
    spool.close()
    shutil.copy(tmp_path / "wal", tmp_path / "spool.db-wal")

    def refuse(path: Path) -> None:
        error = sqlite3.OperationalError("unable to open database file")
        error.sqlite_errorcode = sqlite3.SQLITE_CANTOPEN
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("stcq.runtime.camera.spool.SpoolFile", refuse)
        for _ in range(20):
            assert spool.append([face(99)]) == 0
    assert len(spool._cut_off) <= 50
