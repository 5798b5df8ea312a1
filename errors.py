"""The error tree of stcq and the exit code that the command line gives each branch.

Every message is one line: what was wrong, with the value, and what to do about it.
"""


class StcqError(Exception):
    """Base of every error that stcq raises on purpose; bad input never raises anything else."""

    exit_code = 1


class ImageError(StcqError):
    """A picture that cannot be read or has an unusable shape or type."""

    exit_code = 3


class BundleError(StcqError):
    """A bundle that is damaged, incomplete, unsafe or of an unknown format."""

    exit_code = 4


class PacketError(StcqError):
    """Bytes that are not a valid packet of the opened model."""

    exit_code = 5


class Corrupt(PacketError):
    """A packet whose length, checksum, padding or indices are wrong."""


class OtherKey(Corrupt):
    """A sealed batch or face that none of the given keys opens."""


class WrongModel(PacketError):
    """A packet that was written by another model than the opened bundle."""

    exit_code = 6


class UnsupportedVersion(PacketError):
    """A packet with a format version or flags that this release does not know."""

    exit_code = 7


class BackendError(StcqError):
    """A graph that a backend refuses to open or fails to run."""

    exit_code = 8


class BackendMissing(BackendError):
    """A backend or an optional part of stcq whose library is not installed."""


class ExportError(StcqError):
    """A checkpoint that cannot be exported."""

    exit_code = 9


class ParityError(ExportError):
    """An exported graph that does not compute what the checkpoint computes."""


class AuditError(ExportError):
    """A built graph that is not what was requested (precision, opset, batch)."""


class CheckpointError(StcqError):
    """A training checkpoint that is missing, damaged or from another version."""

    exit_code = 10


class TrainingError(StcqError):
    """Training that cannot start or go on: too few images, a bad recipe, a NaN loss."""

    exit_code = 11


class CalibrationError(StcqError):
    """A calibration that cannot start or whose result was refused."""

    exit_code = 12


class CameraError(StcqError):
    """A camera that cannot be opened or stopped delivering frames."""

    exit_code = 13


class SpoolError(CameraError):
    """A spool that cannot be opened: no folder, no right to write, another process, another key."""


class ServerError(StcqError):
    """A server that cannot start: a bad database, certificate, token or address."""

    exit_code = 14
