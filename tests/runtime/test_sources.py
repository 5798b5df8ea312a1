"""Folders and zips of pictures: read by forked processes at once, and refused where they are none."""

from __future__ import annotations

import multiprocessing
import zipfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stcq.errors import ImageError
from stcq.runtime.sources import Source, open_source

SHARED: Source | None = None


def read_all(_: int) -> list[bytes]:
    assert SHARED is not None
    return [SHARED.read(name) for name in SHARED.names]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of threads beside forks
def test_forked_processes_do_not_share_the_place_in_a_zip(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    contents = [rng.bytes(30_000) for _ in range(40)]
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for number, content in enumerate(contents):
            archive.writestr(f"{number:02}.png", content)
    global SHARED
    SHARED = open_source(tmp_path / "faces.zip")
    SHARED.read("00.png")  # open before the fork
    with ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool:
        for found in pool.map(read_all, range(20)):
            assert found == contents


def test_what_is_no_source_says_what_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as archive:
        archive.writestr("a.png", b"0" * 1000)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "whole.zip").read_bytes()[:500])
    (tmp_path / "text.txt").write_text("no zip")
    for name, reason in (
        ("cut.zip", "neither a folder nor a zip of pictures but the beginning of one; copy it again"),
        ("none.zip", "does not exist: neither a folder nor a zip of pictures is there; check the path"),
        ("text.txt", "is neither a folder nor a zip of pictures; give one of these"),
    ):
        with pytest.raises(ImageError, match=reason):
            open_source(tmp_path / name)


def test_what_no_one_can_read_is_an_image_error(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    (folder / "folder.png").mkdir(parents=True)
    (folder / "gone.png").symlink_to("nothing")
    (folder / "whole.png").write_bytes(b"whole")
    (folder / "._whole.png").write_bytes(b"what macOS keeps beside it")
    with zipfile.ZipFile(tmp_path / "faces.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("folder.png")
        archive.writestr("__MACOSX/._whole.png", b"what macOS keeps beside it")
        archive.writestr("gone.png", np.random.default_rng(0).bytes(1000))
        archive.writestr("whole.png", b"whole")
    content = bytearray((tmp_path / "faces.zip").read_bytes())
    for source in (folder, tmp_path / "faces.zip"):
        if source.is_file():
            start = content.index(b"gone.png") + len(b"gone.png")
            content[start + 100 : start + 400] = bytes(300)
            source.write_bytes(content)
        found = open_source(source)
        assert found.names == ["gone.png", "whole.png"]
        assert found.read("whole.png") == b"whole"
        with pytest.raises(ImageError, match="cannot be read"):
            found.read("gone.png")
