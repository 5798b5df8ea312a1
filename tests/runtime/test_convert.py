"""Where results go."""

from __future__ import annotations

from pathlib import Path

import pytest
from stcq.errors import StcqError
from stcq.runtime.convert import Job, plan


def test_an_input_under_another_name_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("face.png").write_bytes(b"the photograph")
    Path("link.png").symlink_to("face.png")
    Path("folder").symlink_to(tmp_path)
    for out in ("./face.png", "link.png", "folder/face.png", str(tmp_path / "face.png")):
        with pytest.raises(StcqError, match="is an input too"):
            plan(["face.png"], out, ".stcq", force=True)
    assert plan(["face.png"], "./other.png", ".stcq", force=False) == [Job("face.png", "./other.png")]


def test_two_names_of_one_result_collide(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(StcqError, match="would both be written"):
        plan([str(tmp_path / "a" / "face.png"), str(tmp_path / "b" / "face.jpg")], None, ".stcq", force=False)
