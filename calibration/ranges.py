"""One pass over the calibration pictures: the range of every tensor of the encoder, in memory that does not grow."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization.calibrate import CalibrationDataReader, CalibrationMethod, create_calibrator

from ..errors import CalibrationError
from .floating import QUANTISED
from .scratch import no_room

Images = NDArray[np.uint8]
MOST_CLIPPED = 1.2  # median over tensors: largest value on the golden faces over that on the calibration pictures


class _One(CalibrationDataReader):  # type: ignore[misc]
    """One batch as the library wants its data."""

    def __init__(self, images: Images) -> None:
        self._batches: Iterator[dict[str, Images]] = iter([{"image": images}])

    def get_next(self) -> Any:
        """The batch, then None."""
        return next(self._batches, None)


def find_ranges(proto: onnx.ModelProto, batches: Iterable[Images]) -> Any:
    """Smallest and largest value of every float tensor around quantisable nodes, over all pictures.

    Args:
        proto: a float encoder.
        batches: pictures (B, S, S, 3) uint8, a few at a time; only one batch is held.

    Returns:
        onnxruntime's TensorsData.

    Raises:
        CalibrationError: no pictures, a tensor is not finite, or the folder of temporary files is full.
    """
    with tempfile.TemporaryDirectory(prefix="stcq-calibrate-") as scratch:
        calibrator = _calibrator(proto, Path(scratch))
        for images in batches:
            calibrator.collect_data(_One(images))  # merges the batch's ranges and forgets the rest
        ranges = calibrator.compute_data()
    if ranges is None:
        raise CalibrationError("there are no pictures to calibrate on; give --images a folder or zip of faces")
    for name, data in ranges.items():
        if not all(np.isfinite(value).all() for value in data.range_value):
            raise CalibrationError(f"{name} is not finite on the calibration pictures; export the model again")
    return ranges


def _calibrator(proto: onnx.ModelProto, scratch: Path) -> Any:
    """onnxruntime's calibrator of a graph, which it writes to a folder in several forms.

    Raises:
        CalibrationError: it cannot; a full disk shows as any kind of error, of files that were cut off.
    """
    model = scratch / "float.onnx"
    try:
        onnx.save(proto, model)
        return create_calibrator(
            model,
            QUANTISED,
            augmented_model_path=str(scratch / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
    except Exception as error:
        raise no_room(scratch.parent, error) from error


def check_coverage(ranges: Any, golden: Any) -> dict[str, float]:
    """Whether the calibration pictures move the encoder as faces do: the ranges must cover those of the golden faces.

    Args:
        ranges: on the calibration pictures.
        golden: on the bundle's golden faces.

    Returns:
        "median" and "largest" over all tensors of what the golden faces reach to what the ranges hold. Faces give a
        median of 0.8 and at most 1.5, noise 1.4 and 2.3 (face-65).

    Raises:
        CalibrationError: the median is above MOST_CLIPPED: int8 would cut off what makes a face.
    """
    ratios = [_reach(data) / _reach(ranges[name]) for name, data in golden.items()]
    median = float(np.median(ratios))
    if not median <= MOST_CLIPPED:
        raise CalibrationError(
            "the calibration pictures are not like faces to this codec: inside the encoder a face reaches "
            f"{median:.2f} times their range (limit {MOST_CLIPPED}); give aligned faces, or --crop for wide margins"
        )
    return {"median": round(median, 3), "largest": round(max(ratios), 3)}


def _reach(data: Any) -> float:
    """The largest absolute value of a tensor."""
    return max(float(np.abs(value).max()) for value in data.range_value) or 1e-12
