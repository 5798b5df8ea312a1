"""A face recogniser in an ONNX file, run by ONNX Runtime: the eyes of IDS and verification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from ..errors import BackendError
from ..models.recognizer_input import IMAGENET, load_model
from ..runtime.images import Pixels

SIZE = 112


@dataclass(frozen=True)
class Recognizer:
    """A recogniser with input (B, 3, 112, 112) or (1, 3, 112, 112) RGB.

    Attributes:
        session: its ort.InferenceSession.
        mean, std: normalisation per channel of values in [0, 1]; ArcFace models want 0.5 and 0.5.
    """

    session: Any
    mean: tuple[float, float, float] = IMAGENET[0]
    std: tuple[float, float, float] = IMAGENET[1]

    @classmethod
    def load(cls, path: Path) -> Recognizer:
        """Open a recogniser: FILE, or FILE:arcface where it wants a mean and std of 0.5.

        A graph that normalises by itself gets bytes; any other what its name says, else ImageNet's.

        Raises:
            BackendError: the file is missing, no ONNX model, or no recogniser: it is tried on a black picture.
        """
        options = ort.SessionOptions()
        options.log_severity_level = 4
        try:
            model, normalization = load_model(path)
            constants = {tensor.name for tensor in model.graph.initializer}
            given = [value for value in model.graph.input if value.name not in constants]
            del model.graph.input[:]  # old files list constants there too, which keeps ONNX Runtime from folding them
            model.graph.input.extend(given)
            session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own types share no base class
            raise BackendError(f"{path} is no ONNX recogniser: {str(error).splitlines()[0]}") from error
        recognizer = cls(session, *(normalization or IMAGENET))
        try:
            shape = recognizer._raw(np.zeros((SIZE, SIZE, 3), np.uint8)).shape
        except Exception as error:
            why = str(error).splitlines()[0]
            raise BackendError(f"{path} takes no face of {SIZE} x {SIZE}: {why}; give a face recogniser") from error
        if len(shape) != 1:
            raise BackendError(f"{path} gives {shape} for a face, not one embedding; give a face recogniser")
        return recognizer

    def embed(self, image: Pixels, flip: bool = False) -> NDArray[np.float64]:
        """The unit-length embedding (E,) of a uint8 RGB image (S, S, 3); with flip, of f(x) + f(mirrored x)."""
        return _unit(self._raw(image) + self._raw(image[:, ::-1]) if flip else self._raw(image))

    def embed_both(self, image: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What `embed` gives without and with flip, at the cost of the second."""
        plain = self._raw(image)
        return _unit(plain), _unit(plain + self._raw(image[:, ::-1]))

    def _raw(self, image: Pixels) -> NDArray[np.float64]:
        """The network's output (E,)."""
        picture = Image.fromarray(np.ascontiguousarray(image))
        small = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR), np.float32) / 255
        normal = (small - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)  # (112, 112, 3)
        [output] = self.session.run(None, {self.session.get_inputs()[0].name: normal.transpose(2, 0, 1)[None]})
        return np.asarray(output[0], np.float64)


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """A vector (E,) of length one."""
    result: NDArray[np.float64] = vector / max(1e-12, float(np.linalg.norm(vector)))
    return result
