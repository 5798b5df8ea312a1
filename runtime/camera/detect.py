"""Finding faces in a frame: OpenCV's cascade, YuNet with landmarks, or a fixed region."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ...errors import CameraError
from ..images import Pixels
from .options import DetectOptions

CASCADE = "haarcascade_frontalface_default.xml"
NEIGHBOURS = 5


class Detection(NamedTuple):
    """A face in a frame.

    Attributes:
        box: left, top, width, height in pixels.
        score: confidence, 0..1.
        landmarks: eyes, nose, corners of the mouth, (5, 2) float64 in pixels, left to right in the picture; or None.
        kind: the detector, which says how the box lies around the face.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: NDArray[np.float64] | None
    kind: str


class Detector(ABC):
    """Something that finds faces."""

    @abstractmethod
    def detect(self, image: Pixels) -> list[Detection]:
        """Faces in a frame, uint8 BGR (H, W, 3)."""


class Cascade(Detector):
    """The cascade inside OpenCV 4: no file needed, upright frontal faces only, no landmarks."""

    def __init__(self, options: DetectOptions) -> None:
        """Load it.

        Raises:
            CameraError: this OpenCV has none.
        """
        folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
        path = Path(folder) / CASCADE
        if not hasattr(cv2, "CascadeClassifier") or not path.is_file():
            raise CameraError(
                f"OpenCV {cv2.__version__} has no cascade; pip install 'opencv-python-headless<5' or use --detector"
            )
        self._cascade: Any = cv2.CascadeClassifier(str(path))
        self._options = options

    def detect(self, image: Pixels) -> list[Detection]:
        """See `Detector`."""
        small, scale = _narrowed(image, self._options.width)
        grey = cv2.equalizeHist(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY))
        least = max(20, round(self._options.min_face / scale))
        boxes, _, weights = self._cascade.detectMultiScale3(
            grey, 1.1, NEIGHBOURS, minSize=(least, least), outputRejectLevels=True
        )
        found = [
            Detection(_box(box, scale), float(np.clip(np.ravel(weight)[0] / 8, 0.05, 1)), None, "cascade")
            for box, weight in zip(boxes, weights, strict=True)
        ]
        return _without_nested(found)


OUTPUTS = [f"{name}_{stride}".encode() for name in ("cls", "obj", "bbox", "kps") for stride in (8, 16, 32)]


class YuNet(Detector):
    """OpenCV's YuNet from a file: more poses, and landmarks, so that faces are aligned as the codec wants."""

    def __init__(self, options: DetectOptions) -> None:
        """Load the model.

        Raises:
            CameraError: missing, or no YuNet model.
        """
        if not Path(options.file).is_file():
            raise CameraError(
                f"detector {options.file} does not exist; give a YuNet model (face_detection_yunet*.onnx)"
            )
        wrong = f"detector {options.file} is no YuNet model that OpenCV can read"
        content = Path(options.file).read_bytes()
        if not all(name in content for name in OUTPUTS):  # OpenCV would crash on some other models
            raise CameraError(f"{wrong}: it lacks the outputs of face_detection_yunet_2023mar.onnx and later")
        try:
            self._net: Any = cv2.FaceDetectorYN.create(options.file, "", (320, 320), options.score)
        except cv2.error as error:
            raise CameraError(f"{wrong} ({str(error.err).splitlines()[0]})") from error
        self._options = options

    def detect(self, image: Pixels) -> list[Detection]:
        """See `Detector`."""
        small, scale = _narrowed(image, self._options.width)
        self._net.setInputSize((small.shape[1], small.shape[0]))
        _, rows = self._net.detect(small)
        found = []
        for row in [] if rows is None else rows.astype(np.float64):
            if min(row[2:4]) * scale >= self._options.min_face:
                landmarks = row[4:14].reshape(5, 2) * scale  # (5, 2)
                found.append(Detection(_box(row[:4], scale), float(row[14]), landmarks, "yunet"))
        return found


class Region(Detector):
    """A place where a face is always expected: a kiosk, a door."""

    def __init__(self, options: DetectOptions) -> None:
        """Remember it."""
        left, top, width, height = options.region
        self._box = float(left), float(top), float(width), float(height)

    def detect(self, image: Pixels) -> list[Detection]:
        """See `Detector`."""
        return [Detection(self._box, 1.0, None, "region")]


def open_detector(options: DetectOptions) -> Detector:
    """The detector of a configuration.

    Raises:
        CameraError: its model is missing or unreadable.
    """
    kinds: dict[str, type[Any]] = {"cascade": Cascade, "yunet": YuNet, "region": Region}
    detector: Detector = kinds[options.method](options)
    return detector


def _without_nested(faces: list[Detection]) -> list[Detection]:
    """Of faces whose centres lie inside each other's boxes the surest: cascades see mouths and necks as faces."""
    kept: list[Detection] = []
    for face in sorted(faces, key=lambda face: -face.score):
        if not any(_holds(other, face) or _holds(face, other) for other in kept):
            kept.append(face)
    return kept


def _holds(outer: Detection, inner: Detection) -> bool:
    left, top, width, height = outer.box
    x, y = inner.box[0] + inner.box[2] / 2, inner.box[1] + inner.box[3] / 2
    return left <= x <= left + width and top <= y <= top + height


def _narrowed(image: Pixels, width: int) -> tuple[Pixels, float]:
    """A frame at most `width` wide and the factor back."""
    if image.shape[1] <= width:
        return image, 1.0
    scale = image.shape[1] / width
    size = width, max(1, round(image.shape[0] / scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8), scale


def _box(values: Any, scale: float) -> tuple[float, float, float, float]:
    left, top, width, height = (float(value) * scale for value in values)
    return left, top, width, height
