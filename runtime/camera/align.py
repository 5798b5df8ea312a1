"""From a detection to the codec's input, and how good a picture of the person it is."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from ..images import Pixels
from .detect import Detection

# The usual 112 x 112 recognition template: eyes, nose, corners of the mouth (ArcFace, InsightFace).
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
# Where the template's square lies around a box without landmarks: shift of its centre and side, in box widths;
# medians over 32 synthetic portraits against YuNet's landmarks.
AROUND = {"cascade": (0.0, -0.066, 1.115), "yunet": (0.0, -0.078, 1.3), "region": (0.0, 0.0, 1.0)}
SHARP_SCALE = 300.0


def align(image: Pixels, face: Detection, size: int) -> Pixels:
    """Cut a face out.

    Args:
        image: uint8 BGR (H, W, 3).
        face: with landmarks it is turned and scaled onto the template, without them its box is used.
        size: S.

    Returns:
        uint8 RGB (S, S, 3); what lies outside the frame repeats its border.
    """
    matrix = _similarity(face.landmarks, size) if face.landmarks is not None else _around(face, size)
    scale = float(np.hypot(*matrix[0, :2]))
    if scale < 0.5:  # far smaller: average first, a warp alone would take single pixels
        factor = 2 * scale
        image = np.asarray(cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = matrix @ np.diag([1 / factor, 1 / factor, 1.0])
    flags = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
    cut = cv2.warpAffine(image, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(cut[:, :, ::-1])


def sharpness(crop: Pixels) -> int:
    """0..255 from the variance of the Laplacian of an RGB crop: flat is 0, a focused face above 100."""
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    variance = float(cv2.Laplacian(grey, cv2.CV_64F).var())
    return round(255 * (1 - math.exp(-variance / SHARP_SCALE)))


def frontal(face: Detection) -> float:
    """1 for a face that looks into the camera, towards 0 for a profile: how far the nose is from between the eyes."""
    if face.landmarks is None:
        return 1.0
    left, right, nose = face.landmarks[:3]
    across = right - left
    distance = float(np.hypot(*across))
    if distance < 1:
        return 0.05
    aside = abs(float(np.dot(nose - (left + right) / 2, across))) / distance**2
    return max(0.05, 1 - 2 * aside)


def quality(face: Detection, sharp: int, size: int) -> float:
    """What the best shot of a track is chosen by: sharpness, size up to the codec's, frontal pose, confidence."""
    large = min(1.0, min(face.box[2:]) / size)
    return (sharp + 1) / 256 * large * frontal(face) * (0.5 + face.score / 2)


def _similarity(landmarks: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The least-squares similarity from landmarks to the template at S, (2, 3) (Umeyama 1991, in complex numbers)."""
    template = TEMPLATE * (size / 112)
    source, target = landmarks - landmarks.mean(0), template - template.mean(0)
    p, q = source[:, 0] + 1j * source[:, 1], target[:, 0] + 1j * target[:, 1]
    turn = complex(np.vdot(p, q) / max(np.vdot(p, p).real, 1e-9))
    linear = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.hstack([linear, (template.mean(0) - linear @ landmarks.mean(0))[:, None]])


def _around(face: Detection, size: int) -> NDArray[np.float64]:
    """The square around a box as a (2, 3) matrix."""
    left, top, width, height = face.box
    right, down, side = AROUND[face.kind]
    length = side * (width if face.kind != "region" else min(width, height))
    scale = size / max(length, 1.0)
    centre = np.array([left + width / 2 + right * width, top + height / 2 + down * width])
    return np.array([[scale, 0, size / 2 - scale * centre[0]], [0, scale, size / 2 - scale * centre[1]]])
