"""Where a spool lies, who may read it, and faces whose clock jumped between them."""

from __future__ import annotations

import os
import queue
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from stcq.runtime.camera.options import UploadOptions
from stcq.runtime.camera.pipeline import Encoder
from stcq.runtime.camera.spool import Spool
from stcq.runtime.camera.upload import Uploader
from stcq.runtime.record import Record

DIGEST = bytes(range(32))
DAY = 86_400_000
WRITER = """
import os, sys
from pathlib import Path
from stcq.runtime.camera.spool import Spool
from stcq.runtime.record import Record
spool = Spool(Path(sys.argv[1]))
for number in range(640):
    spool.append([(bytes(range(32)), number.to_bytes(4, "big") + bytes(61), Record(1000))])
os.kill(os.getpid(), 9)
"""


def numbers(spool: Spool) -> list[int]:
    return [int.from_bytes(stored.payload[:4], "big") for stored in spool.peek(10**6)]


@pytest.mark.parametrize("name", ["spool.db", "link.db", "spool[1].db"])
def test_a_killed_spool_with_a_damaged_page_is_salvaged_wherever_it_lies(tmp_path: Path, name: str) -> None:
    """SQLite's log lies beside the file, also where the path is a link to it; names may look like patterns."""
    (tmp_path / "disk").mkdir()
    if name == "link.db":
        (tmp_path / name).symlink_to(tmp_path / "disk" / "real.db")
    path = tmp_path / name
    subprocess.run([sys.executable, "-c", WRITER, path], check=False)
    real = path.resolve()
    with Path(f"{real}-wal").open("r+b") as file:
        file.seek(32 + 24 + 4096 + 24 + 100)  # in the second page that the log holds
        file.write(b"\xff" * 100)
    spool = Spool(path)
    assert numbers(spool) == list(range(640))
    spool.close()
    assert path.is_symlink() == (name == "link.db")
    real.write_bytes(bytes(4096) + real.read_bytes()[4096:])
    spool = Spool(path)
    assert len(numbers(spool)) >= 600
    assert path.is_symlink() == (name == "link.db")
    assert spool.counters["quarantines"] == 1
    spool.close()


def test_only_its_user_reads_a_spool(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        spool = Spool(tmp_path / "spool.db")
        spool.append([(DIGEST, bytes(65), Record(1))])
        modes = {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        spool.close()
    finally:
        os.umask(before)
    assert modes == {0o600}


def test_faces_of_a_clock_that_jumped_both_ways_travel_in_batches_that_hold_them(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.db")
    times = [100 * DAY, 85 * DAY, 115 * DAY, 114 * DAY]
    spool.append([(DIGEST, bytes([n]) + bytes(64), Record(moment)) for n, moment in enumerate(times)])
    uploader = Uploader(spool, None, "door", UploadOptions())  # type: ignore[arg-type]
    sizes = []
    while faces := spool.peek(100):
        assert len(uploader._pack(faces)) > 65 * len(faces)
        sizes.append(len(faces))
        spool.remove(faces[-1].id)
    assert sizes == [2, 2]
    spool.close()


def test_a_dead_encoder_holds_nobody_up() -> None:
    encoder = Encoder.__new__(Encoder)
    encoder._queue, encoder.lost = queue.Queue(1), 0
    encoder._thread = threading.Thread(target=lambda: None)
    encoder._thread.start()
    encoder._thread.join()
    began = time.monotonic()
    encoder.put(None)  # type: ignore[arg-type]
    encoder.put(None)  # type: ignore[arg-type]
    encoder.stop()
    assert time.monotonic() - began < 20
    assert encoder.lost == 1


def test_the_capture_process_is_not_taken_from_the_folder_it_is_started_in(tmp_path: Path) -> None:
    decoy = tmp_path / "stcq" / "runtime" / "camera"
    decoy.mkdir(parents=True)
    for folder in (tmp_path / "stcq", tmp_path / "stcq" / "runtime", decoy):
        (folder / "__init__.py").touch()
    (decoy / "capture_child.py").write_text("open('decoyed', 'w').close()\n")
    clip = tmp_path / "pictures"
    clip.mkdir()
    shutil.copy(Path(__file__).parents[2] / "docs" / "demo.png", clip / "a.png")
    code = """
import sys
sys.path.pop(0)
from stcq.runtime.camera.capture import Capture
from stcq.runtime.camera.options import SourceOptions
frames = Capture(SourceOptions(url="pictures")).frames_until(lambda: False)
print(next(frame for frame in frames if frame is not None).image.ndim)
"""
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert not (tmp_path / "decoyed").exists()
    assert result.stdout == "3\n", result.stderr
