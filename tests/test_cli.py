"""The command line as a user meets it: real processes, real files, exit codes, nothing half-written."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq import Codec, __version__

STCQ = [sys.executable, "-c", "from stcq.cli import run; run()"]


def run(*arguments: object, cwd: Path, stdin: bytes = b"", check: int | None = 0) -> subprocess.CompletedProcess[bytes]:
    command = [*STCQ, *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, input=stdin, capture_output=True, timeout=120)
    assert b"Traceback" not in result.stderr
    if check is not None:
        assert result.returncode == check, result.stderr.decode()
    return result


@pytest.fixture
def work(tmp_path: Path, face: np.ndarray) -> Path:
    Image.fromarray(face).save(tmp_path / "face.png")
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_encode_and_decode_files(work: Path, codec: Codec, face: np.ndarray) -> None:
    run("encode", "face.png", cwd=work)
    content = (work / "face.stcq").read_bytes()
    assert content == b"STCQ" + codec.encode(face)
    run("decode", "face.stcq", "-o", "decoded.png", cwd=work)
    decoded = np.asarray(Image.open(work / "decoded.png"))
    assert np.array_equal(decoded, codec.decode(content[4:]))
    assert files(work) == ["decoded.png", "face.png", "face.stcq"]


def test_standard_input_and_output(work: Path, codec: Codec, face: np.ndarray) -> None:
    packet = run("encode", "-", "-o", "-", cwd=work, stdin=(work / "face.png").read_bytes()).stdout
    assert packet == b"STCQ" + codec.encode(face)
    for stdin in (packet, packet[4:]):
        picture = run("decode", "-", cwd=work, stdin=stdin).stdout
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(picture))), codec.decode(packet[4:]))
    assert files(work) == ["face.png"]


def test_many_files_with_one_bad_among_them(work: Path) -> None:
    for number in range(6):
        shutil.copy(work / "face.png", work / f"{number}.png")
    (work / "3.png").write_bytes(b"no picture")
    result = run("encode", *(f"{n}.png" for n in range(6)), "-o", "packets/", "--json", cwd=work, check=3)
    assert files(work / "packets") == [f"{n}.stcq" for n in (0, 1, 2, 4, 5)]
    records = json.loads(result.stdout)
    assert [("error" in record) for record in records] == [False, False, False, True, False, False]
    assert result.stderr.decode().count("error: 3.png") == 1


@pytest.mark.parametrize("suffix", ["jpg", "webp", "bmp", "tif"])
def test_other_picture_formats(work: Path, suffix: str) -> None:
    run("encode", "face.png", cwd=work)
    run("decode", "face.stcq", "-o", f"out.{suffix}", cwd=work)
    with Image.open(work / f"out.{suffix}") as image:
        assert image.size == (128, 128)


def test_a_photograph_is_never_overwritten_by_accident(work: Path) -> None:
    run("encode", "face.png", cwd=work)
    before = (work / "face.png").read_bytes()
    assert b"face.png exists" in run("decode", "face.stcq", cwd=work, check=1).stderr
    assert b"input too" in run("encode", "face.png", "-o", "face.png", cwd=work, check=1).stderr
    assert (work / "face.png").read_bytes() == before
    run("decode", "face.stcq", "--force", cwd=work)
    assert (work / "face.png").read_bytes() != before


def test_results_that_would_collide(work: Path) -> None:
    shutil.copy(work / "face.png", work / "face.bmp")
    assert b"would both be written" in run("encode", "face.png", "face.bmp", cwd=work, check=1).stderr
    assert b"give a folder" in run("encode", "face.png", "face.bmp", "-o", "x.stcq", cwd=work, check=1).stderr
    assert files(work) == ["face.bmp", "face.png"]


@pytest.mark.parametrize(
    ("content", "code", "message"),
    [
        (b"", 5, b"0 bytes"),
        (b"STCQ", 5, b"0 bytes"),
        (b"STCQ" + bytes(74), 7, b"version 0"),
        (b"STCQ\x10" + bytes(73), 6, b"open the bundle that encoded it"),
        (bytes(5000), 5, b"larger than any packet"),
    ],
)
def test_bad_packets(work: Path, content: bytes, code: int, message: bytes) -> None:
    (work / "bad.stcq").write_bytes(content)
    result = run("decode", "bad.stcq", "-o", "out.png", cwd=work, check=code)
    assert message in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert not (work / "out.png").exists()


def test_truncated_and_flipped_packets(work: Path) -> None:
    run("encode", "face.png", cwd=work)
    content = (work / "face.stcq").read_bytes()
    for broken, message in ((content[:-3], b"cut"), (content[:20] + b"\0\0\0" + content[23:], b"checksum")):
        (work / "bad.stcq").write_bytes(broken)
        assert message in run("decode", "bad.stcq", cwd=work, check=5).stderr
        facts = json.loads(run("inspect", "bad.stcq", "--json", cwd=work).stdout)
        assert (facts["valid"], facts["error"]) == (False, "Corrupt")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["encode", "missing.png"], 3, b"missing.png does not exist"),
        (["encode", "."], 3, b"cannot be read"),
        (["decode", "missing.stcq"], 5, b"missing.stcq does not exist"),
        (["encode", "face.png", "-b", "nowhere"], 4, b"no bundle here"),
        (["encode", "face.png", "--variant", "onnx-int3"], 4, b"it has: onnx-fp32"),
        (["encode", "face.png", "-o", "face.png/x"], 1, b"cannot be written"),
        (["verify", "."], 4, b"no bundle here"),
        (["inspect", "missing"], 5, b"does not exist"),
        (["demo", "-o", "no/where.png"], 1, b"cannot be written"),
        (["export", "missing", "-o", "out"], 10, b"no checkpoint"),
        (["train", "missing.toml", "--data", ".", "--out", "run"], 11, b"does not exist"),
        (["encode"], 2, b"Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_an_exit_code(work: Path, arguments: list[str], code: int, message: bytes) -> None:
    result = run(*arguments, cwd=work, check=code)
    assert message in result.stderr
    assert files(work) == ["face.png"]


def test_a_full_disk_leaves_the_old_file(work: Path) -> None:
    """A limit on file sizes stands in for the full disk: the write fails in the middle."""
    run("encode", "face.png", cwd=work)
    (work / "out.png").write_bytes(b"old")
    command = ["bash", "-c", 'ulimit -f 4; exec "$@"', "limited", *STCQ, "decode", "face.stcq", "-o", "out.png"]
    result = subprocess.run(command, cwd=work, capture_output=True)
    assert result.returncode == 1
    assert b"out.png cannot be written: File too large" in result.stderr
    assert (work / "out.png").read_bytes() == b"old"
    assert files(work) == ["face.png", "face.stcq", "out.png"]


def test_standard_output_on_a_full_disk(work: Path) -> None:
    for command in (["encode", "face.png", "-o", "-"], ["inspect"]):
        with Path("/dev/full").open("wb") as full:
            result = subprocess.run([*STCQ, *command], cwd=work, stdout=full, stderr=subprocess.PIPE)
        assert result.returncode == 1
        assert b"No space left" in result.stderr
        assert b"Traceback" not in result.stderr


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(work: Path) -> None:
    (work / "locked").mkdir(mode=0o500)
    assert b"cannot be written" in run("encode", "face.png", "-o", "locked/x.stcq", cwd=work, check=1).stderr


def test_inspect_describes_the_bundle(work: Path, codec: Codec) -> None:
    facts = json.loads(run("inspect", codec.bundle.path, "--json", cwd=work).stdout)
    info = codec.info
    assert {key: facts["codec"][key] for key in ("T", "K", "M", "d", "image_size", "payload_bytes", "digest")} == {
        "T": info.T,
        "K": info.K,
        "M": info.M,
        "d": info.d,
        "image_size": 128,
        "payload_bytes": info.payload_bytes,
        "digest": info.digest,
    }
    assert all(set(variant) >= {"name", "precision", "size"} for variant in facts["variants"])
    assert facts["variants"][0]["size"] > 1e6
    assert info.digest.encode() in run("inspect", cwd=work).stdout


def test_inspect_describes_a_packet(work: Path, codec: Codec, face: np.ndarray) -> None:
    run("encode", "face.png", cwd=work)
    facts = json.loads(run("inspect", "face.stcq", "--json", cwd=work).stdout)
    group, indices = codec.tokens(face)
    assert facts["valid"]
    assert (facts["group"], facts["indices"]) == (group, indices.tolist())
    assert facts["model"] == codec.info.digest[:8]


def test_compact_packets(work: Path, codec: Codec, face: np.ndarray) -> None:
    run("encode", "face.png", "--compact", cwd=work)
    facts = json.loads(run("inspect", "face.stcq", "--json", cwd=work).stdout)
    assert (facts["valid"], facts["size"], facts["flags"], facts["model"]) == (True, 70, 2, None)
    assert facts["payload_bytes"] == codec.info.payload_bytes
    assert facts["indices"] == codec.tokens(face)[1].tolist()
    run("decode", "face.stcq", "-o", "out.png", cwd=work)
    assert np.array_equal(np.asarray(Image.open(work / "out.png")), codec.decode(codec.encode(face)))


def test_verify_passes_and_finds_damage(work: Path, codec: Codec) -> None:
    assert json.loads(run("verify", "--json", cwd=work).stdout)["passed"]
    first, *rest = run("verify", "--variant", "onnx-fp32", cwd=work).stdout.decode().splitlines()
    assert first == "onnx-fp32: passed on 8 golden faces"
    assert 3 <= len(rest) <= 8  # a line for each differing token, of which there are five at most
    bundle = shutil.copytree(codec.bundle.path, work / "bundle")
    weights = bundle / "onnx-fp32" / "encoder.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 3] ^= 4
    weights.write_bytes(content)
    assert b"encoder.bin is damaged" in run("verify", bundle, cwd=work, check=4).stderr


def test_zipped_bundles_leave_no_copies(work: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    (work / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(work / "tmp"))
    shutil.make_archive(str(work / "bundle"), "zip", codec.bundle.path)
    run("encode", "face.png", "-b", "bundle.zip", cwd=work)
    run("decode", "face.stcq", "-b", "bundle.zip", "-o", "out.png", cwd=work)
    for source in ("face.stcq", "bundle.zip"):
        run("inspect", source, "-b", "bundle.zip", cwd=work)
    run("verify", "bundle.zip", cwd=work)
    run("encode", "face.png", "-b", "bundle.zip", "--variant", "none", "--force", cwd=work, check=4)
    assert not list((work / "tmp").glob("stcq-*"))  # onnxruntime itself leaves a file named .ses


def test_demo_writes_the_comparison(work: Path, codec: Codec) -> None:
    facts = json.loads(run("demo", "--json", cwd=work).stdout)
    assert facts["payload_bytes"] == codec.info.payload_bytes
    assert {"jpeg", "webp"} <= {name for name, _, _ in facts["peers"]}
    with Image.open(work / "demo.png") as sheet:
        assert sheet.width > (2 + len(facts["peers"])) * 256


def test_export_command(work: Path, small_checkpoint: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "from stcq.cli import export_main; export_main()",
        small_checkpoint,
        "-o",
        "bundle",
    ]
    result = subprocess.run([*command, "--images", "."], cwd=work, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr.decode()
    assert b"wrote bundle" in result.stdout
    table = result.stdout.decode().splitlines()
    assert [line.split()[0] for line in table[:3]] == ["variant", "onnx-fp32", "openvino-fp32"]
    assert all("passed" in line for line in table[1:3])
    run("encode", "face.png", "-b", "bundle", cwd=work)
    more = ["--target", "tensorrt", "--target", "onnx", "--precision", "fp16", "--batch", "2", "--json"]
    added = json.loads(run("export", small_checkpoint, "-o", "bundle", *more, cwd=work).stdout)
    assert [variant["name"] for variant in added["variants"]] == ["tensorrt-fp16-b2", "onnx-fp16-b2"]
    assert added["kept"] == ["onnx-fp32", "openvino-fp32"]
    variants = json.loads((work / "bundle" / "manifest.json").read_text())["variants"]
    assert [variant["parity"]["images"]["faces"] for variant in variants if "images" in variant["parity"]] == [1, 1]
    run("verify", "bundle", "--variant", "openvino-fp32", cwd=work)
    run("export", small_checkpoint, "-o", "bundle", "--batch", "many", cwd=work, check=2)


def test_export_lists_targets(work: Path) -> None:
    rows = json.loads(run("export", "--json", "--list", cwd=work).stdout)
    assert [row["target"] for row in rows] == ["onnx", "openvino", "tensorrt"]
    assert all(row["can_run"] or row["run_fix"] for row in rows)
    assert b"run here: yes, onnxruntime" in run("export", "--list", cwd=work).stdout


def test_help_and_version(work: Path) -> None:
    assert __version__.encode() in run("--version", cwd=work).stdout
    for verb in ("encode", "decode", "inspect", "verify", "demo", "export", "train"):
        assert b"Usage" in run(verb, "--help", cwd=work).stdout


def test_closed_standard_input(work: Path) -> None:
    for verb in ("encode", "decode"):
        command = ["sh", "-c", f'exec "$0" -c "from stcq.cli import run; run()" {verb} - <&-', sys.executable]
        result = subprocess.run(command, cwd=work, capture_output=True, timeout=120)
        assert result.returncode == 1
        assert b"closed here; name a file" in result.stderr
        assert b"Traceback" not in result.stderr


def test_verbs_of_their_own_have_one_line_errors_too(work: Path) -> None:
    code = "from stcq.cli import profile_main; profile_main()"
    (work / "full.json").symlink_to("/dev/full")
    command = [sys.executable, "-c", code, "--seconds", "0.1", "--json", str(work / "full.json")]
    result = subprocess.run(command, cwd=work, capture_output=True, timeout=120)
    assert result.returncode == 1
    assert b"Traceback" not in result.stderr
    assert b"error: No space left on device" in result.stderr
