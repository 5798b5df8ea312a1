"""Detection, alignment and tracks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
import pytest
from stcq.errors import CameraError
from stcq.runtime.bundle import EMBEDDED
from stcq.runtime.camera.align import TEMPLATE, align, frontal, sharpness
from stcq.runtime.camera.capture import Capture
from stcq.runtime.camera.config import parse_bytes
from stcq.runtime.camera.detect import Detection, open_detector
from stcq.runtime.camera.options import DetectOptions, SourceOptions, TrackOptions
from stcq.runtime.camera.sources import open_frames
from stcq.runtime.camera.track import Candidate, Tracker


def candidate(left: float, quality: float = 1.0, sharp: int = 100, time: float = 0.0) -> Candidate:
    crop = np.zeros((8, 8, 3), np.uint8)
    return Candidate((left, 100.0, 80.0, 80.0), crop, quality, sharp, 0.9, 1000, time, (0, 0, 0, 0))


def scene(face: np.ndarray, left: int = 200, top: int = 100, side: int = 230) -> np.ndarray:
    framed = cv2.copyMakeBorder(face[:, :, ::-1], 40, 40, 40, 40, cv2.BORDER_REPLICATE)
    image = np.full((480, 640, 3), 110, np.uint8)
    image[top : top + side, left : left + side] = cv2.resize(framed, (side, side))
    return image


def test_the_cascade_finds_the_face_and_nothing_else(face: np.ndarray) -> None:
    [found] = open_detector(DetectOptions()).detect(scene(face))
    left, top, width, height = found.box
    assert abs(left + width / 2 - 315) < 25
    assert abs(top + height / 2 - 225) < 25
    assert open_detector(DetectOptions()).detect(np.full((480, 640, 3), 90, np.uint8)) == []
    crop = align(scene(face), found, 128)
    assert (crop.shape, crop.dtype) == ((128, 128, 3), np.uint8)
    small = [cv2.resize(p, (24, 24), interpolation=cv2.INTER_AREA).astype(float).ravel() for p in (crop, face)]
    assert np.corrcoef(*small)[0, 1] > 0.5


def test_yunet_aligns_by_landmarks(shared: Path, face: np.ndarray) -> None:
    detector = open_detector(DetectOptions("yunet", str(shared / "models" / "yunet_2026may.onnx"), width=640))
    for left, side in ((200, 230), (120, 300)):
        [found] = detector.detect(scene(face, left, side=side))
        crop = align(scene(face, left, side=side), found, 128)
        assert frontal(found) > 0.5
        inner = [picture[32:112, 24:104] for picture in (crop, face)]  # the picture that was aligned for the package
        small = [cv2.resize(p, (20, 20), interpolation=cv2.INTER_AREA).astype(float).ravel() for p in inner]
        assert np.corrcoef(*small)[0, 1] > 0.75


def test_landmarks_land_on_the_template() -> None:
    turn, shift = np.array([[1.2, -0.9], [0.9, 1.2]]), np.array([300.0, 120.0])
    points = TEMPLATE @ turn.T + shift
    image = np.zeros((480, 640, 3), np.uint8)
    for x, y in points:
        cv2.circle(image, (round(x), round(y)), 5, (255, 255, 255), -1)
    crop = align(image, Detection((0, 0, 9, 9), 1, points, "yunet"), 112)
    for x, y in TEMPLATE:
        assert crop[round(y), round(x)].min() > 200


def test_detectors_that_cannot_be() -> None:
    with pytest.raises(CameraError, match="does not exist"):
        open_detector(DetectOptions("yunet", "none.onnx"))
    with pytest.raises(CameraError, match="no YuNet model"):
        open_detector(DetectOptions("yunet", __file__))
    [found] = open_detector(DetectOptions("region", region=(10, 20, 30, 40))).detect(np.zeros((99, 99, 3), np.uint8))
    assert found.box == (10, 20, 30, 40)


def test_another_model_is_no_yunet(tmp_path: Path) -> None:
    """OpenCV crashes on some."""
    for model in (EMBEDDED / "onnx-int8" / "encoder.onnx", EMBEDDED / "onnx-fp32" / "decoder.onnx"):
        with pytest.raises(CameraError, match="no YuNet model") as caught:
            open_detector(DetectOptions("yunet", str(model)))
        assert "\n" not in str(caught.value)


def test_sharpness_orders_pictures(face: np.ndarray) -> None:
    blurred = [cv2.GaussianBlur(face, (0, 0), sigma) for sigma in (1, 2, 4)]
    values = [sharpness(picture) for picture in (face, *blurred, np.full_like(face, 99))]
    assert values == sorted(values, reverse=True)
    assert values[-1] == 0 < values[0] <= 255


def test_one_person_is_sent_once_at_their_best() -> None:
    tracker = Tracker(TrackOptions(settle=1.0, interval=0))
    shots = []
    for step in range(100):
        quality = 5.0 if step == 7 else 1.0
        shots += tracker.update(step * 0.1, [candidate(100 + 4 * step, quality, time=step * 0.1)])
    assert [(shot.track, shot.face.quality) for shot in shots] == [(0, 5.0)]
    assert tracker.flush() == []


def test_a_person_who_stays_is_sent_at_intervals() -> None:
    tracker = Tracker(TrackOptions(settle=1.0, interval=3.0))
    times = [t for t in np.arange(0, 10, 0.1) for _ in tracker.update(float(t), [candidate(100)])]
    assert np.allclose(times, [1.0, 4.0, 7.0], atol=0.11)


def test_two_people_are_two_tracks_and_glitches_none() -> None:
    tracker = Tracker(TrackOptions(settle=0.5))
    shots = []
    for step in range(20):
        faces = [candidate(100 + step), candidate(400 - step)]
        glitch = [candidate(250)] if step == 5 else []
        shots += tracker.update(step * 0.1, faces + glitch)
    assert sorted(shot.track for shot in shots) == [0, 1]
    assert tracker.update(9.0, []) == []


def test_short_visits_are_sent_when_they_end_and_blurred_ones_not() -> None:
    tracker = Tracker(TrackOptions(settle=1.0, gone=0.5))
    for step in range(4):
        assert tracker.update(step * 0.1, [candidate(100), candidate(400, sharp=2)]) == []
    [shot] = tracker.update(1.5, [])
    assert shot.face.box[0] == 100


def test_sizes_in_words() -> None:
    assert [parse_bytes(text) for text in ("5000", "2 kB", "100 MB", "1.5GB", "2 kB/s")] == [
        5000,
        2000,
        100_000_000,
        1_500_000_000,
        2000,
    ]
    for text in ("", "much", "5 apples", "-1 MB"):
        with pytest.raises(CameraError, match="100 MB"):
            parse_bytes(text)


def test_a_capture_process_that_cannot_be_killed_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """As a driver makes it that hangs in the kernel."""

    class Hanging:
        pid = 4711

        def kill(self) -> None:
            pass

        def wait(self, seconds: float) -> None:
            raise subprocess.TimeoutExpired("capture", seconds)

    capture = Capture(SourceOptions())
    capture._child = Hanging()
    capture._kill()
    assert capture.child_pid is None
    assert "4711 hangs" in caplog.text


def test_devices_and_streams_are_live_files_and_folders_are_not(tmp_path: Path) -> None:
    live = ("/dev/video0", "/dev/video_of_a_camera_that_comes_later", "0", "picamera2", "rtsp://door/stream")
    assert all(SourceOptions(url).live for url in live)
    assert not any(SourceOptions(url).live for url in ("video.mp4", str(tmp_path)))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        (Path(folder) / "video.mp4").touch()
        assert not any(SourceOptions(url).live for url in (folder, f"{folder}/video.mp4"))


def test_a_pi_camera_is_asked_for_size_and_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    camera = mock.MagicMock()
    camera.create_video_configuration.side_effect = lambda **asked: asked
    camera.capture_array.return_value = np.zeros((240, 320, 3), np.uint8)
    monkeypatch.setitem(sys.modules, "picamera2", SimpleNamespace(Picamera2=lambda: camera))
    source = open_frames(SourceOptions("picamera2", width=320, height=240, fps=10.0))
    camera.configure.assert_called_once_with(
        {"main": {"format": "RGB888", "size": (320, 240)}, "controls": {"FrameRate": 10.0}}
    )
    assert source.read().image.shape == (240, 320, 3)
    source.close()
    camera.stop.assert_called_once_with()
