"""Replacing folders: broken off at every point, refused by the system, or out of space, the old folder stays."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from stcq.runtime import folders
from stcq.runtime.folders import FolderBusy, exchange, link_or_copy, replacing


def make(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(text)
    (folder / "part").mkdir()
    (folder / "part" / "file").write_text(text)
    return folder


def content(folder: Path) -> set[str]:
    return {path.read_text() for path in folder.rglob("*") if path.is_file()}


def interrupted(new: Path) -> None:
    (new / "manifest.json").write_text("new")
    raise KeyboardInterrupt


def two_renames(_one: Path, _other: Path) -> bool:
    """A system without RENAME_EXCHANGE."""
    return False


@pytest.fixture(params=["exchange", "two renames"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "two renames":
        monkeypatch.setattr(folders, "exchange", two_renames)
    return str(request.param)


@pytest.mark.parametrize("before", ["nothing", "empty", "old"])
def test_a_new_folder_takes_the_place(tmp_path: Path, system: str, before: str) -> None:
    target = tmp_path / "deep" / "bundle"
    if before == "empty":
        target.mkdir(parents=True)
    if before == "old":
        make(target, "old")
    with replacing(target) as new:
        (new / "manifest.json").write_text("new")
    assert content(target) == {"new"}
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]


def test_a_failure_inside_leaves_the_old_folder(tmp_path: Path, system: str) -> None:
    target = make(tmp_path / "bundle", "old")
    with pytest.raises(KeyboardInterrupt), replacing(target) as new:
        interrupted(new)
    assert content(target) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


@pytest.mark.skipif(sys.platform != "linux", reason="RENAME_EXCHANGE is Linux's")
def test_the_exchange_is_one_step_on_this_system(tmp_path: Path) -> None:
    one, other = make(tmp_path / "one", "1"), make(tmp_path / "other", "2")
    if not exchange(one, other):
        pytest.skip("this file system has no RENAME_EXCHANGE")
    assert (content(one), content(other)) == ({"2"}, {"1"})
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "missing")


def test_a_second_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "exchange", two_renames)
    target = make(tmp_path / "bundle", "old")
    original: Callable[[Path, Path], Path] = Path.rename

    def rename(self: Path, other: Path) -> Path:
        if self.name == "new":
            raise OSError(errno.EIO, "input/output error")
        return original(self, other)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="input/output error"), replacing(target) as new:
        (new / "manifest.json").write_text("new")
    assert content(target) == {"old"}
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


KILLED = """
import json, os, signal, sys
from pathlib import Path
from stcq.runtime import folders

target, calls = Path(sys.argv[1]), 0
if sys.argv[2] == "two renames":
    folders.exchange = lambda one, other: False

def write(text):
    with folders.replacing(target) as new:
        (new / "manifest.json").write_text(text)
        (new / "part").mkdir()
        (new / "part" / "file").write_text(text)

def content():
    return sorted({path.read_text() for path in target.rglob("*") if path.is_file()}) if target.exists() else []

def die_at(step):  # before the step-th change of the disk by Python, or the call of renameat2
    def watched(event, arguments):
        global calls
        changes = ("os.mkdir", "os.rename", "os.rmdir", "os.remove", "open", "os.chmod", "shutil.rmtree")
        if (event in changes and "bundle" in str(arguments)) or event == "ctypes.dlsym":
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watched)

results, step = [], 0
while True:
    write("old")
    beside = sorted(path.name for path in target.parent.iterdir())
    step += 1
    child = os.fork()
    if child == 0:
        die_at(step)
        write("new")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    after_kill = content()
    try:
        with folders.replacing(target):
            raise RuntimeError
    except RuntimeError:
        pass
    results.append([after_kill, content(), beside, sorted(path.name for path in target.parent.iterdir())])
    if status == 0:
        break
print(json.dumps(results))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("system", ["exchange", "two renames"])
def test_killed_at_every_point(tmp_path: Path, system: str) -> None:
    """kill -9 before each change of the disk: the old or the new folder is there, and the next call mends the rest."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "bundle"), system]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    *killed, finished = json.loads(result.stdout)
    assert finished[:2] == [["new"], ["new"]]
    assert len(killed) > 15
    states = [after for after, _, _, _ in killed]
    missing = states.count([])  # between the two renames: the next call puts the old folder back
    assert missing == (1 if system == "two renames" else 0)
    mended = [after for _, after, _, _ in killed]
    assert mended == [after or ["old"] for after in states]
    assert mended == sorted(mended, reverse=True)  # old, old, ..., new, new; never both in one folder
    assert {"old", "new"} == {text for [text] in mended}
    assert all(before == after == ["bundle"] for _, _, before, after in killed)


def test_two_writers(tmp_path: Path) -> None:
    target = make(tmp_path / "bundle", "old")
    with replacing(target) as new:
        with pytest.raises(FolderBusy, match="another process"), replacing(target):
            pass
        (new / "manifest.json").write_text("new")
    assert content(target) == {"new"}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    make(tmp_path / "real", "old")
    (tmp_path / "bundle").symlink_to("real")
    with replacing(tmp_path / "bundle") as new:
        (new / "manifest.json").write_text("new")
    assert (tmp_path / "bundle").is_symlink()
    assert content(tmp_path / "real") == {"new"}


def test_links_are_used_where_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "file"
    source.write_text("x")
    link_or_copy(source, tmp_path / "a" / "linked")
    assert (tmp_path / "a" / "linked").samefile(source)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(source, tmp_path / "a" / "copied")
    assert (tmp_path / "a" / "copied").read_text() == "x"
    assert not (tmp_path / "a" / "copied").samefile(source)
