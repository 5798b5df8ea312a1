"""`stcq evaluate` end to end: a small bundle, a small recogniser, real pictures, every figure checked by hand."""

from __future__ import annotations

import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from stcq.errors import BackendError, ImageError
from stcq.evaluation.evaluate import evaluate
from stcq.evaluation.faces import load_faces
from stcq.evaluation.means import Mean, without_nan
from stcq.evaluation.peer_points import PeerCurve, default_budgets
from stcq.evaluation.quality import crop_square, psnrs, spaced
from stcq.evaluation.recognizer import Recognizer
from stcq.evaluation.report import grid, table
from stcq.evaluation.ssim import ms_ssims
from stcq.runtime.codec import Codec

STCQ = [sys.executable, "-c", "from stcq.cli import run; run()"]


def test_every_figure(small_bundle: Path, recognizer: Path, people: Path) -> None:
    faces = load_faces(people, 32, 1.0, None, None, verify=True)
    eyes = Recognizer.load(recognizer)
    with Codec.load(small_bundle) as codec:
        result, decoded = evaluate(codec, faces, eyes, peers=["webp"], budgets=[150, 400], peer_faces=5)
        assert np.array_equal(decoded, codec.decode_batch(codec.encode_batch(list(faces.images))))
        group, indices = codec.tokens_batch(list(faces.images))
        routed = Codec.load(small_bundle, policy="router").tokens_batch(list(faces.images))[0]
    assert (result.faces, result.payload_bytes, result.packet_bytes) == (60, 4, 13)
    assert result.bits_per_pixel == 26 / 1024
    errors = np.square(faces.images.astype(float) - decoded).mean((1, 2, 3))
    assert result.psnr.value == pytest.approx(np.mean(10 * np.log10(255**2 / errors)))
    ids = [eyes.embed(a) @ eyes.embed(b) for a, b in zip(faces.images, decoded, strict=True)]
    people_of = np.array([path.parent.name for path in sorted(people.rglob("*.png"))])
    sums = np.array([np.sum(np.array(ids)[people_of == one] - np.mean(ids)) for one in np.unique(people_of)])
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / 60  # pictures of one person are alike
    assert result.ids == Mean(pytest.approx(np.mean(ids)), pytest.approx(error))
    assert result.router_agreement == (routed == group).mean()
    assert result.usage.per_token == np.mean([len(set(column)) / 5 for column in indices.T.tolist()])
    assert result.verification.keys() == {"uncompressed", "original-decoded", "decoded-decoded"}
    assert result.verification["uncompressed"].accuracy > result.verification["original-decoded"].accuracy
    assert [point.budget for point in result.peers] == [150, 400]
    assert result.peers[1].psnr.value > result.peers[0].psnr.value
    assert result.peers[0].codestream.value < result.peers[0].size.value <= 150
    text = table(result)
    assert "WebP" in text
    picks = spaced(60, 5)
    assert result.peer_ids == Mean.of([ids[pick] for pick in picks], faces.people[picks])
    plain = np.stack([eyes.embed(faces.images[pick]) for pick in picks])
    curve = PeerCurve("webp", faces.images[picks], plain, eyes)
    first = next(b for b in range(1, 401) if curve.at(b).ids.value >= result.peer_ids.value)
    assert [p.budget for p in result.equal] == [first]
    wanted = np.full(5, curve.at(300).ids.value)
    found = curve.reaching(wanted, (100, 400))
    assert found.budget <= 300
    assert curve.at(found.budget - 1).ids.value < wanted[0] <= found.ids.value
    slope = (curve.at(400).ids.value - curve.at(100).ids.value) / (curve.at(400).size.value - curve.at(100).size.value)
    assert found.error == pytest.approx(found.ids.error / slope)  # the wanted ones vary by nothing
    assert curve.reaching(np.full(5, 1.1), (100, 400)) is None
    assert "WebP needs" in text
    assert "WebP has not this codec's IDS" in table(dataclasses.replace(result, equal=()))


def test_the_command_writes_table_json_and_pictures(
    small_checkpoint: Path, recognizer: Path, people: Path, tmp_path: Path
) -> None:
    command = [
        *STCQ,
        "evaluate",
        small_checkpoint,
        "--images",
        people,
        "--recognizer",
        recognizer,
        "--peers",
        "webp,jpeg",
        "--variant",
        "onnx-fp32",
    ]
    result = subprocess.run([*command, "-o", tmp_path / "out"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "verification" in result.stdout
    document = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert document["faces"] == 60
    assert document["variant"] == "onnx-fp32"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "evaluation.json",
        "faces.png",
        "rate-distortion.png",
    }
    for name in ("faces.png", "rate-distortion.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert picture.width >= 12 * 32


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--images": "nowhere"}, 3, "neither a folder nor a zip"),
        ({"--recognizer": "nowhere"}, 8, "no ONNX recogniser"),
        ({"--peers": "gif"}, 1, "unknown"),
        ({"--pairs": "nowhere"}, 3, "no pairs file"),
        ({"--pairs": "pairs.txt", "--limit": "5"}, 3, "the pairs of pairs.txt need all pictures, not a limit of them"),
        ({"--crop": "nan"}, 2, "nan is no fraction; give a number above 0, up to 1"),
        ({"--variant": "onnx-int8"}, 4, "onnx-fp32"),
        ({"-o": "/dev/null/out", "--images": "nowhere"}, 1, "/dev/null is no folder; give another -o"),  # said first
    ],
)
def test_bad_input(small_bundle: Path, recognizer: Path, people: Path, change: dict, code: int, message: str) -> None:
    options = {"--images": people, "--recognizer": recognizer} | change
    result = subprocess.run(
        [*STCQ, "evaluate", small_bundle, *(str(part) for pair in options.items() for part in pair)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_another_model_is_no_recogniser(small_bundle: Path, people: Path, tmp_path: Path, graph: str) -> None:
    wrong = small_bundle / "onnx-fp32" / f"{graph}.onnx"
    command = [*STCQ, "evaluate", small_bundle, "--images", people, "--recognizer", wrong, "-o", tmp_path / "out"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert result.returncode == 8
    assert "give a face recogniser" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_insightface_bins_are_measured_too(people: Path, tmp_path: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(people.rglob("*.png"))[:4]]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((pictures, [True, False])))
    faces = load_faces(tmp_path / "lfw.bin", 32, 1.0, None, None, verify=True)
    assert faces.images.shape == (4, 32, 32, 3)
    assert len(faces.pairs) == 2
    entries = [pictures[0], pictures[1], bytes(bytearray(pictures[0])), pictures[2]]  # a file names pictures many times
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((entries, [True, False])))
    again = load_faces(tmp_path / "lfw.bin", 32, verify=True)
    assert np.array_equal(again.images, faces.images[:3])
    assert [(pair.one, pair.other, pair.same) for pair in again.pairs] == [(0, 1, True), (0, 2, False)]


def test_a_limit_of_a_bin_leaves_out_verification_and_its_pairs_are_its_own(people: Path, tmp_path: Path) -> None:
    pictures = [path.read_bytes() for path in sorted(people.rglob("*.png"))[:4]]
    (tmp_path / "lfw.bin").write_bytes(pickle.dumps((pictures, [True, False])))
    whole = load_faces(tmp_path / "lfw.bin", 32)
    faces = load_faces(tmp_path / "lfw.bin", 32, limit=2)
    assert np.array_equal(faces.images, whole.images[[0, 3]])
    assert whole.pairs == faces.pairs == ()
    with pytest.raises(ImageError, match=r"pairs.txt need pictures by name; .*lfw.bin has its own"):
        load_faces(tmp_path / "lfw.bin", 32, pairs=Path("pairs.txt"), verify=True)


@pytest.mark.parametrize("crop", [0.0, -1.0, 1.5, float("nan")])
def test_a_crop_that_is_no_fraction(people: Path, crop: float) -> None:
    with pytest.raises(ImageError, match="give a fraction above 0, up to 1"):
        load_faces(people, 32, crop)


@pytest.mark.parametrize("size", [16, 24, 27, 28, 32, 48, 62, 63, 96, 97, 111, 112, 128, 256])
def test_ms_ssim_takes_every_size(size: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    assert ms_ssims(images, images) == pytest.approx([1, 1])


def test_limits_and_crops(people: Path, face: np.ndarray) -> None:
    assert len(load_faces(people, 32, 1.0, 7, None, verify=False).images) == 7
    bordered = np.pad(face, ((16, 16), (16, 16), (0, 0)))
    assert np.array_equal(crop_square(Image.fromarray(bordered), 128, 0.8), face)
    with pytest.raises(ImageError):
        load_faces(people / "p0", 32, 1.0, None, None, verify=True)


def test_ms_ssim_and_psnr_know_equal_from_different(face: np.ndarray) -> None:
    images = np.stack([face, face, face])
    noisy = images.copy()
    noisy[1] = np.clip(face.astype(int) + np.random.default_rng(0).integers(-20, 21, face.shape), 0, 255)
    noisy[2] = 255 - face
    found = ms_ssims(images, noisy)
    assert found[0] == pytest.approx(1)
    assert 0.8 < found[1] < 0.999
    assert found[2] < 0.5
    assert psnrs(images, noisy)[0] > psnrs(images, noisy)[1] > psnrs(images, noisy)[2]


def test_small_parts(face: np.ndarray, recognizer: Path, tmp_path: Path) -> None:
    assert default_budgets(74) == (74, 111, 148, 222, 296, 370, 518)
    assert str(Mean.of([1.0, 3.0])) == "2 +- 1"
    assert str(Mean.of([24.3])) == "24.3 +- ?"
    assert without_nan({"a": [Mean.of([1.0]).error]}) == {"a": [None]}
    twice = Mean.of([1.0, 1.0, 3.0, 3.0], np.array([7, 7, 9, 9]))
    assert twice == Mean.of([1.0, 3.0])  # the same two people again are no news
    assert Mean.of([1.0, 2.0, 4.0], np.arange(3)).error == pytest.approx(Mean.of([1.0, 2.0, 4.0]).error)
    assert grid(np.stack([face] * 30), np.stack([face] * 30)).size == (12 * 128, 4 * 128)
    assert grid(np.stack([face] * 13), np.stack([face] * 13)).size == (12 * 128, 4 * 128)
    embedding = Recognizer.load(recognizer).embed(face, flip=True)
    assert np.linalg.norm(embedding) == pytest.approx(1)
    assert np.allclose(embedding, Recognizer.load(recognizer).embed(face[:, ::-1], flip=True))
    with pytest.raises(BackendError):
        Recognizer.load(tmp_path)


def test_an_unreadable_picture_is_left_out_with_its_pairs(
    people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    whole = load_faces(folder, 32, verify=True)
    (folder / "p3" / "p3_0001.png").write_bytes(b"not a picture")
    faces = load_faces(folder, 32, verify=True)
    assert (len(faces.images), faces.skipped) == (len(whole.images) - 1, 1)
    assert "p3_0001.png" in capsys.readouterr().err
    names = [p for p in sorted(folder.rglob("*.png")) if p.name != "p3_0001.png"]
    assert 0 < len(faces.pairs) < len(whole.pairs)
    assert all((names[p.one].parent == names[p.other].parent) == p.same for p in faces.pairs)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(ImageError, match="no readable picture"):
        load_faces(folder, 32)
