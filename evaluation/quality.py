"""How good decoded faces are: PSNR and IDS, per picture and with standard errors. Needs only the base install."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from ..errors import BackendError
from ..runtime.codec import Codec
from ..runtime.images import Pixels, open_image, to_rgb
from ..runtime.sources import Source

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Recognizer:
    """A face recogniser in an ONNX file with input (1, 3, 112, 112), run by ONNX Runtime.

    Attributes:
        session: its ort.InferenceSession.
        mean, std: normalisation per RGB channel of values in [0, 1].
    """

    session: Any
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @classmethod
    def load(cls, path: Path) -> Recognizer:
        """Open a recogniser.

        Raises:
            BackendError: the file is missing or no ONNX model.
        """
        try:
            return cls(ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]))
        except Exception as error:  # onnxruntime's own types share no base class
            raise BackendError(f"{path} is no ONNX recogniser: {str(error).splitlines()[0]}") from error

    def embed(self, image: Pixels) -> NDArray[np.float64]:
        """The unit-length embedding (E,) of a uint8 RGB image (S, S, 3)."""
        small = np.asarray(Image.fromarray(image).resize((112, 112), Image.Resampling.BILINEAR), np.float32) / 255
        normal = (small - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)  # (112, 112, 3)
        [output] = self.session.run(None, {self.session.get_inputs()[0].name: normal.transpose(2, 0, 1)[None]})
        vector = np.asarray(output[0], np.float64)
        unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
        return unit


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error over pictures."""

    value: float
    error: float

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        """Mean and standard error of at least one value."""
        return cls(float(np.mean(values)), float(np.std(values, ddof=len(values) > 1) / np.sqrt(len(values))))

    def __str__(self) -> str:
        return f"{self.value:.4g} +- {self.error:.2g}"


@dataclass(frozen=True)
class Quality:
    """Figures of a codec on a set of faces.

    Attributes:
        faces: pictures measured.
        payload_bytes, packet_bytes: of each face.
        psnr: dB over RGB values, mean over pictures.
        ids: cosine of the recogniser's embeddings of original and decoded face.
    """

    faces: int
    payload_bytes: int
    packet_bytes: int
    psnr: Mean
    ids: Mean

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready copy."""
        return asdict(self)


def crops(source: Source, size: int, crop: float = 1.0, limit: int | None = None) -> Iterator[Pixels]:
    """Centre crops of a source's pictures, evenly spaced when limited.

    Args:
        size: side of the results in pixels.
        crop: side of the crop as a fraction of the picture's shorter side.
        limit: most pictures.

    Yields:
        uint8 RGB (size, size, 3).
    """
    count = len(source.names)
    for index in np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(int)):
        image = to_rgb(open_image(source.read(source.names[index])))
        side = min(image.size) * crop
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        yield np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box, reducing_gap=3.0))


def measure(codec: Codec, images: NDArray[np.uint8], recognizer: Recognizer) -> Quality:
    """Encode and decode images (N, S, S, 3) and compare."""
    decoded = codec.decode_batch(codec.encode_batch(list(images)))
    mse = np.square(images.astype(np.float64) - decoded).mean((1, 2, 3))
    psnr = 10 * np.log10(255**2 / np.maximum(mse, 1e-9))
    pairs = zip(images, decoded, strict=True)
    ids = [float(recognizer.embed(a) @ recognizer.embed(b)) for a, b in pairs]
    payload = codec.info.payload_bytes
    return Quality(len(images), payload, payload + 9, Mean.of(psnr.tolist()), Mean.of(ids))
