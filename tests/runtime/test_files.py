"""Replacing one file: whatever stands at its path, the content is whole, private files stay private."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from stcq.runtime.files import cache_folder, replace_file


def put(path: Path, content: bytes) -> None:
    replace_file(path, lambda temporary: temporary.write_bytes(content))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_usual_rights_and_an_old_one_keeps_its_own(tmp_path: Path) -> None:
    def private(temporary: Path) -> None:  # as safetensors writes
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))

    (tmp_path / "usual").touch()
    put(tmp_path / "new", b"1")
    replace_file(tmp_path / "made", private)
    assert mode(tmp_path / "new") == mode(tmp_path / "made") == mode(tmp_path / "usual")
    for rights in (0o600, 0o400):
        (tmp_path / "new").chmod(rights)
        put(tmp_path / "new", b"2")
        assert mode(tmp_path / "new") == rights
    assert (tmp_path / "new").read_bytes() == b"2"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for real in ("there", "not yet"):
        link = tmp_path / f"link {real}"
        link.symlink_to(tmp_path / "store" / real)
    (tmp_path / "store" / "there").write_bytes(b"old")
    for real in ("there", "not yet"):
        put(tmp_path / f"link {real}", b"new")
        assert (tmp_path / f"link {real}").is_symlink()
        assert (tmp_path / "store" / real).read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["not yet", "there"]


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    put(pipe, b"content")
    reader.join(10)
    assert heard == [b"content"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_full_device_is_an_error_and_stays_a_device(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        put(tmp_path / "full", b"content")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_folder_is_refused_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        put(tmp_path / "folder", b"content")
    assert caught.value.filename == str(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_long_names_and_many_threads(tmp_path: Path) -> None:
    path, failures = tmp_path / ("ä" * 120 + ".png"), []

    def write(number: int) -> None:
        try:
            for _ in range(50):
                put(path, bytes([number]) * 1000)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(set(path.read_bytes())) == 1
    assert path.stat().st_size == 1000
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_without_a_home_there_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STCQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(OSError, match="Not a directory"):
        cache_folder("variants").mkdir(parents=True)
