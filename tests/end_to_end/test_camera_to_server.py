"""From a video through camera, HTTP or MQTT and server to decoded pictures, with real processes."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from end_to_end import (
    database_rows,
    pictures_of,
    stcq,
    write_config,
    write_video,
)
from stcq.cli import main
from stcq.evaluation.recognizer import Recognizer
from stcq.runtime.camera.align import align
from stcq.runtime.camera.detect import YuNet
from stcq.runtime.camera.options import DetectOptions
from stcq.runtime.codec import Codec


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_a_video_arrives(
    way: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    serve: Callable[..., Any],
    short_video: Path,
    face: np.ndarray,
) -> None:
    broker = request.getfixturevalue("broker") if way == "mqtt" else ""
    server = serve(*(["--mqtt", broker] if broker else []))
    config = write_config(tmp_path, short_video, broker or server.url, server.token("door-1"))
    status = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)
    assert (status["faces"], status["spool"]["delivered"], status["spool"]["waiting"]) == (2, 2, 0)
    faces = server.get("/api/faces")
    assert [(f["device"], f["sequence"], f["bytes"]) for f in faces] == [("door-1", "1", 65), ("door-1", "0", 65)]
    assert all(f["sharpness"] > 20 and f["box"][2] > 0.1 for f in faces)
    for picture in pictures_of(server):  # the astronaut again, not somebody else: like the source, or its mirror image
        small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA).astype(float)
        sources = [cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA).astype(float) for f in (face, face[:, ::-1])]
        assert max(np.corrcoef(small.ravel(), source.ravel())[0, 1] for source in sources) > 0.5
    if way == "mqtt":
        return
    again = json.loads(stcq("camera", config, "--json", cwd=tmp_path).stdout)  # the same video: two new faces
    assert again["spool"]["delivered"] == 4
    assert len({row for row in database_rows(server)}) == 4


@pytest.mark.parametrize("way", ["http", "mqtt"])
def test_synthetic_portraits_keep_their_identity(
    way: str, request: pytest.FixtureRequest, tmp_path: Path, serve: Callable[..., Any], shared: Path, codec: Codec
) -> None:
    detector = shared / "models" / "yunet_2026may.onnx"
    portraits = [cv2.imread(str(path)) for path in sorted((shared / "faces" / "sfhq").glob("*.webp"))[:7]]
    broker = request.getfixturevalue("broker") if way == "mqtt" else ""
    server = serve(*(["--mqtt", broker] if broker else []))
    video = write_video(tmp_path / "portraits.avi", portraits, 230)
    config = write_config(tmp_path, video, broker or server.url, server.token("door-1"))
    stcq("camera", config, "--detector", detector, cwd=tmp_path)
    decoded = pictures_of(server)
    assert len(decoded) == len(portraits)  # every face once, in order
    net = YuNet(DetectOptions(file=str(detector)))
    sources = np.stack([align(portrait, net.detect(portrait)[0], 128) for portrait in portraits])
    recognizer = Recognizer.load(shared / "models" / "mobilefacenet.onnx")

    def embed(images: Any) -> np.ndarray:
        return np.stack([recognizer.embed(image) for image in images])

    similarity = embed(decoded) @ embed(sources).T  # (decoded, sources)
    promised = (embed(codec.decode_batch(codec.encode_batch(list(sources)))) * embed(sources)).sum(1)
    print(f"identity similarity {np.diag(similarity).mean():.3f}, of the codec alone {promised.mean():.3f}")
    assert (similarity.argmax(1) == np.arange(len(portraits))).all()
    assert np.diag(similarity).mean() > promised.mean() - 0.1


def test_a_folder_of_pictures_and_a_dry_run(tmp_path: Path, two_pictures: Path) -> None:
    config = write_config(tmp_path, two_pictures, "")
    status = json.loads(stcq("camera", config, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert status["faces"] == 2
    more = write_config(tmp_path, two_pictures, "", more="[track]\nsettle = 0.0\n")
    assert json.loads(stcq("camera", more, "--dry-run", "--json", cwd=tmp_path).stdout)["faces"] == 2
    estimate = status["estimate"]
    assert estimate["payload_bytes_per_face"] == 65
    assert 100 < estimate["bytes_per_face"] < 130
    assert not list(tmp_path.glob("stcq-spool*"))
    assert "bytes_per_day" in stcq("camera", config, "--dry-run", cwd=tmp_path).stdout


def test_bad_configurations_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    cases = {
        'device = "a b"': "device",
        "": "device",
        'device = "a"\nsauce = 1': "sauce",
        'device = "a"\n[source]\nurl = 3': "url",
        'device = "a"\n[source]\nurl = "none.mp4"': "none.mp4",
        'device = "a"\n[detect]\nmethod = "magic"': "magic",
        'device = "a"\n[upload]\nurl = "http://example.com"': "plain = true",
        'device = "a"\n[upload]\nurl = "https://127.0.0.1:1"\ntoken = "missing"': "stcq token add",
        'device = "a"\n[spool]\nmax_bytes = "many"': "many",
        'device = "a"\n[spool]\npath = "no/such/folder/x.db"': "does not exist",
        "device = ": "cannot be read",
        'device = "a"\nfolder = "b"': "unknown key 'folder'",
        'device = "a"\nstatus = ""': "status",
        'device = "a"\nstatus = "~nobody-at-all/x"': "no such user",
        'device = "a"\n[upload]\nurl = "https://[::1"': "no URL",
        'device = "a"\n[upload]\nurl = "https://h:99999"': "no URL",
        'device = "a"\n[upload]\nurl = "mqtt://door-1:SECRET@example.com"': "door-1@example.com",
        'device = "a"\n[upload]\ninterval = inf': "finite",
        'device = "a"\n[upload]\nmax_delay = 0': "max_delay",
        'device = "a"\n[source]\nmax_pixels = 0': "max_pixels",
        'device = "a"\n[spool]\nmax_bytes = "' + "9" * 400 + '"': "give a number of bytes",
        'device = "a"\n[detect]\nmethod = "region"\nregion = [0, 0, 100000000, 100000000]': "region",
    }
    for text, expected in cases.items():
        (tmp_path / "camera.toml").write_text(text)
        result = CliRunner().invoke(main, ["camera", str(tmp_path / "camera.toml")])
        assert result.exit_code == 13, (text, result)
        assert expected in result.stderr, (text, result.stderr)
        assert result.stderr.count("\n") == 1, (text, result.stderr)
        assert "SECRET" not in result.stderr
