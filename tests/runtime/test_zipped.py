"""Bundles in zips: the same codec, nothing unsafe or endless, and no copies left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import BundleError
from stcq.runtime import locks
from stcq.runtime.bundle import Bundle
from stcq.runtime.codec import Codec
from stcq.runtime.files import UNZIPPED
from stcq.runtime.verify import verify
from stcq.runtime.zipped import sweep


@pytest.fixture
def bundle(small_bundle: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(small_bundle, tmp_path / "bundle")


def zipped(bundle: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(bundle.rglob("*")):
            archive.write(path, path.relative_to(bundle))
    return target


def test_a_zip_is_the_same_codec(bundle: Path, face: np.ndarray) -> None:
    archive = zipped(bundle, bundle.parent / "bundle.zip")
    with Codec.load(archive) as codec, Codec.load(bundle) as plain:
        copy = codec.bundle.path
        assert codec.encode(face) == plain.encode(face)
        assert verify(codec).passed
    assert not copy.exists()


def test_zips_that_are_damaged_or_unsafe(bundle: Path) -> None:
    archive = zipped(bundle, bundle.parent / "bundle.zip")
    content = archive.read_bytes()
    for broken in (content[: len(content) // 2], content[:-10]):
        archive.write_bytes(broken)
        with pytest.raises(BundleError):
            Bundle(archive)
    archive.write_bytes(content)
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr("../escaped", "x")
    with pytest.raises(BundleError, match="does not list"):
        Bundle(archive)
    assert not (bundle.parent.parent / "escaped").exists()


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_that_inflates_without_bounds_is_refused(tmp_path: Path, kind: int) -> None:
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", kind) as archive:
        archive.writestr("manifest.json", b" " * 1_000_000)
    with pytest.raises(BundleError, match="zip the folder with deflate"):
        Bundle(tmp_path / "bundle.zip")


def test_a_zip_larger_than_the_disk(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zipped(bundle, bundle.parent / "bundle.zip")
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(BundleError, match="set TMPDIR"):
        Bundle(archive)


def test_a_damaged_deflated_zip(bundle: Path) -> None:
    archive = bundle.parent / "bundle.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(bundle.rglob("*")):
            opened.write(path, path.relative_to(bundle))
    content = bytearray(archive.read_bytes())
    place = content.index(b"manifest.json") + 200
    content[place : place + 50] = b"\xff" * 50
    archive.write_bytes(content)
    with pytest.raises(BundleError):
        Bundle(archive)


def test_a_zips_copy_goes_with_the_bundle_even_unclosed(bundle: Path) -> None:
    opened = Bundle(zipped(bundle, bundle.parent / "bundle.zip"))
    copy = opened.path
    assert copy.is_dir()
    del opened
    assert not copy.exists()


def test_what_killed_processes_left_of_zips_goes_and_what_is_open_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(bundle, bundle.parent / "bundle.zip")
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    code = """import sys; from pathlib import Path; from stcq.runtime.bundle import Bundle
opened = Bundle(Path(sys.argv[1])); print(opened.path, flush=True); input()"""
    command = [sys.executable, "-c", code, str(archive)]
    environment = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout
        copy = Path(other.stdout.readline().strip())
        (place / f"{UNZIPPED}link").symlink_to(bundle)
        shutil.copytree(bundle, place / "stcq-bundle-v2")  # somebody's own
        opened = Bundle(archive)
        assert copy.is_dir()  # its process lives
        other.kill()
        other.wait()
        assert copy.is_dir()
        again = Bundle(archive)
        assert not copy.exists()
        assert opened.path.is_dir()
        opened.close()
        again.close()
    assert sorted(path.name for path in place.iterdir()) == [f"{UNZIPPED}link", "stcq-bundle-v2"]
    assert (place / "stcq-bundle-v2" / "manifest.json").is_file()
    assert (bundle / "manifest.json").is_file()


def test_a_system_without_locks_leaves_what_it_cannot_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(locks, "fcntl", None)
    monkeypatch.delattr(os, "geteuid")  # Windows has none
    left = tmp_path / f"{UNZIPPED}left"
    left.mkdir()
    sweep()
    assert left.exists()


def test_a_fork_that_ends_leaves_its_parent_the_zips_copy(bundle: Path) -> None:
    archive = zipped(bundle, bundle.parent / "bundle.zip")
    code = """import os, sys; from pathlib import Path; from stcq.runtime.bundle import Bundle
opened = Bundle(Path(sys.argv[1]))
if not os.fork(): sys.exit(0)
os.wait(); print(opened.path.is_dir(), opened.path)"""
    result = subprocess.run([sys.executable, "-c", code, archive], capture_output=True, text=True, check=True)
    there, copy = result.stdout.split()
    assert there == "True"
    assert not Path(copy).exists()
