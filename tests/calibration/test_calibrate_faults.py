"""What `stcq calibrate` leaves behind when its input is bad, the disk refuses or it is killed: the bundle as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from folders import contents
from PIL import Image
from stcq.calibration.calibrate import calibrate
from stcq.calibration.cli import calibrate as command
from stcq.calibration.gate import Limits
from stcq.calibration.pictures import split
from stcq.errors import BundleError, CalibrationError, ImageError

LOOSE = Limits(speed=0.0, token_agreement=0.0, group_agreement=0.0, psnr_drop=9.0)


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("too few", CalibrationError, "too few"),
        ("tiny", CalibrationError, "can be used"),
        ("none", ImageError, "no pictures"),
        ("zip", CalibrationError, "unpack"),
        ("no bundle", BundleError, "is no bundle"),
        ("damaged", BundleError, "damaged"),
        ("no fp32", CalibrationError, "no openvino-fp32"),
    ],
)
def test_bad_input_leaves_the_bundle(
    small: Path, portraits: Path, tmp_path: Path, what: str, error: type[Exception], message: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    source, bundle = portraits, small
    if what == "too few":
        shutil.copytree(portraits / "p00", images / "p00")
        source = images
    elif what == "tiny":
        for number in range(100):
            Image.new("RGB", (8, 9), (number, 0, 0)).save(images / f"{number}.png")
        source = images
    elif what == "none":
        source = images
    elif what == "zip":
        bundle = Path(shutil.make_archive(str(tmp_path / "zipped"), "zip", small))
    elif what == "no bundle":
        bundle = images
    elif what == "damaged":
        path = small / "onnx-fp32" / "decoder.bin"
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    before = contents(small)
    with pytest.raises(error, match=message) as caught:
        calibrate(bundle, source, targets=("openvino",) if what == "no fp32" else ("onnx",), limits=LOOSE)
    assert "\n" not in str(caught.value)
    assert contents(small) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_bundle(small: Path, portraits: Path) -> None:
    small.chmod(0o500)
    with pytest.raises(CalibrationError, match="read-only"):
        calibrate(small, portraits, limits=LOOSE)


def test_a_bundle_whose_folder_cannot_be_replaced(
    small: Path, portraits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root: the system call that puts the new bundle in place fails."""

    def refuse(one: Path, other: Path) -> bool:
        raise OSError(30, "Read-only file system", str(other))

    before = contents(small)
    monkeypatch.setattr("stcq.runtime.folders.exchange", refuse)
    with pytest.raises(CalibrationError, match="Read-only file system; it is unchanged"):
        calibrate(small, portraits, limits=LOOSE)
    assert contents(small) == before
    assert sorted(path.name for path in small.parent.iterdir()) == ["small"]


@pytest.mark.parametrize("where", ["ranges.create_calibrator", "onnx_target.quantise"])
def test_a_full_folder_of_temporary_files(
    small: Path, portraits: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that are cut off show as any error of who reads them; others as ENOSPC."""
    cut = where == "ranges.create_calibrator"
    error = RuntimeError("Protobuf parsing failed.\nmore") if cut else OSError(28, "No space left on device")

    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(f"stcq.calibration.{where}", full)
    reason = "Protobuf parsing failed." if cut else "No space left on device"
    with pytest.raises(CalibrationError) as caught:
        calibrate(small, portraits, limits=LOOSE)
    folder = tempfile.gettempdir()
    fix = "if it is full, free some of it, or set TMPDIR to another folder"
    assert str(caught.value) == f"temporary files in {folder} failed: {reason}; {fix}"


def test_the_pictures_to_judge_by_are_others(small: Path, portraits: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(portraits)
    for same in (portraits, portraits / "p00" / "..", tmp_path / "link", portraits / "p00"):
        with pytest.raises(CalibrationError, match="share pictures; give others, or leave --held-out out"):
            calibrate(small, portraits, held_out=same)
    with pytest.raises(CalibrationError, match="share pictures"):
        calibrate(small, portraits / "p00", held_out=portraits)


def test_one_person_of_many_pictures_is_thinned() -> None:
    names = [f"{person}/{number:02}.png" for person in range(5) for number in range(40)]
    train, held = split(names, 16, 0)
    [person] = {name[0] for name in held}
    assert len(held) == 16
    assert (held[0], held[-1]) == (f"{person}/00.png", f"{person}/39.png")
    assert train == [name for name in names if name[0] != person]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--seed", "-1"], "-1 is not in the range"),
        (["--crop", "nan"], "nan is no fraction"),
        (["--crop", "0"], "0.0 is no fraction"),
        (["--crop", "1.5"], "1.5 is no fraction"),
        (["--entropy-tables", "--recognizer", "r.onnx"], "--entropy-tables does not look at --recognizer"),
        (["--entropy-tables", "--keep-float", "x", "--budget", "10"], "look at --budget, --keep-float"),
        (["--refit-codebooks", "-o", "x", "--min-token-agreement", "0.9"], "not look at --min-token-agreement"),
        (["--codebooks", "int8", "-o", "x", "--threads", "2"], "--codebooks does not look at --threads"),
    ],
)
def test_options_that_mean_nothing(options: list[str], said: str) -> None:
    result = CliRunner().invoke(command, ["bundle", "--images", "faces", *options])
    assert result.exit_code == 2
    assert said in result.output


KILLED = """
import os, signal, sys
from pathlib import Path
from stcq.calibration import writing
from stcq.calibration.calibrate import calibrate
from stcq.calibration.gate import Limits
if sys.argv[3] == "writing":
    writing.measure = lambda *rest, **more: os.kill(os.getpid(), signal.SIGKILL)

def progress(step):
    if sys.argv[3] in step:
        os.kill(os.getpid(), signal.SIGKILL)

limits = Limits(speed=0.0, token_agreement=0, group_agreement=0, psnr_drop=9)
calibrate(Path(sys.argv[1]), Path(sys.argv[2]), limits=limits, progress=progress)
"""


@pytest.mark.parametrize("step", ["timing", "writing"])
def test_a_killed_calibration(small: Path, portraits: Path, step: str) -> None:
    before = contents(small)
    result = subprocess.run([sys.executable, "-c", KILLED, small, portraits, step], capture_output=True, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr.decode()
    assert contents(small) == before
    assert calibrate(small, portraits, limits=LOOSE).kept
    assert sorted(path.name for path in small.parent.iterdir()) == ["small"]
