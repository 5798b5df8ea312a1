"""What to say when the temporary files of a calibration cannot be written."""

from __future__ import annotations

from pathlib import Path

from ..errors import CalibrationError


def no_room(folder: Path, error: Exception) -> CalibrationError:
    """The one line for an error over temporary files in a folder."""
    reason = (isinstance(error, OSError) and error.strerror) or str(error).strip() or type(error).__name__
    return CalibrationError(
        f"temporary files in {folder} failed: {reason.splitlines()[0]}; if it is full, free some of it, or set TMPDIR "
        "to another folder"
    )
