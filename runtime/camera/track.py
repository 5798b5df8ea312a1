"""One person in view is one track, and of a track only the best pictures are sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..images import Pixels
from .options import TrackOptions

MIN_OVERLAP = 0.15
MAX_STEP = 0.7  # of the mean side, between two detections


class Candidate(NamedTuple):
    """A face of one frame.

    Attributes:
        box: left, top, width, height in pixels.
        crop: uint8 RGB (S, S, 3), as the codec takes it.
        quality: larger is better.
        sharpness: 0..255.
        score: the detector's, 0..1.
        wall: capture time, milliseconds since 1970 UTC.
        monotonic: capture time by the monotonic clock, seconds.
        place: the box in 1/255 of the frame.
    """

    box: tuple[float, float, float, float]
    crop: Pixels
    quality: float
    sharpness: int
    score: float
    wall: int
    monotonic: float
    place: tuple[int, int, int, int]


class Shot(NamedTuple):
    """A picture to be sent: the best of its track, and when the track said so (monotonic, of that frame)."""

    track: int
    face: Candidate
    chosen: float


@dataclass
class Track:
    """A person in view."""

    number: int
    box: tuple[float, float, float, float]
    first: float
    last: float
    velocity: tuple[float, float] = (0.0, 0.0)
    hits: int = 0
    sent: bool = False
    best: Candidate | None = None
    due: float | None = None  # stream time of the next picture; None = no more

    def expected(self, time: float) -> tuple[float, float, float, float]:
        """Where the box should be by now."""
        step = min(time - self.last, 0.5)
        left, top, width, height = self.box
        return left + self.velocity[0] * step, top + self.velocity[1] * step, width, height


class Tracker:
    """Follows boxes by overlap and distance; times are of the stream, so a video gives the same at any speed."""

    def __init__(self, options: TrackOptions) -> None:
        """Nobody in view."""
        self._options = options
        self._count = 0
        self.tracks: list[Track] = []

    def update(self, time: float, faces: Sequence[Candidate]) -> list[Shot]:
        """Take the faces of a frame; returns the pictures that are due.

        Args:
            time: of the frame, in seconds of the stream.
            faces: all that were found in it.
        """
        ended = [track for track in self.tracks if time - track.last > self._options.gone]
        self.tracks = [track for track in self.tracks if time - track.last <= self._options.gone]
        pairs = [
            (closeness, index, place)
            for index, track in enumerate(self.tracks)
            for place, face in enumerate(faces)
            if (closeness := _closeness(track.expected(time), face.box)) > 0
        ]
        left, right = set(range(len(self.tracks))), set(range(len(faces)))
        for _, index, place in sorted(pairs, reverse=True):
            if index in left and place in right:
                left.discard(index)
                right.discard(place)
                self._follow(self.tracks[index], time, faces[place])
        for place in sorted(right):
            track = Track(self._count, faces[place].box, time, time, due=time + self._options.settle)
            self._count += 1
            self.tracks.append(track)
            self._follow(track, time, faces[place])
        now = max((face.monotonic for face in faces), default=0.0)
        shots = [shot for track in self.tracks for shot in self._due(track, time, now)]
        return self._last_shots(ended) + shots

    def flush(self) -> list[Shot]:
        """The best pictures of tracks that have sent none yet; all tracks end."""
        tracks, self.tracks = self.tracks, []
        return self._last_shots(tracks)

    def _follow(self, track: Track, time: float, face: Candidate) -> None:
        step = time - track.last
        if step > 0:
            new = _centre(face.box)
            old = _centre(track.box)
            track.velocity = (new[0] - old[0]) / step, (new[1] - old[1]) / step
        track.box, track.last, track.hits = face.box, time, track.hits + 1
        sharp = face.sharpness >= self._options.min_sharpness
        if track.due is not None and sharp and (track.best is None or face.quality > track.best.quality):
            track.best = face

    def _due(self, track: Track, time: float, now: float) -> list[Shot]:
        ready = track.due is not None and time >= track.due and track.hits >= self._options.min_hits
        if not ready or track.best is None:
            return []
        shot = Shot(track.number, track.best, max(now, track.best.monotonic))
        track.best, track.sent = None, True
        track.due = time + self._options.interval if self._options.interval > 0 else None
        return [shot]

    def _last_shots(self, tracks: Sequence[Track]) -> list[Shot]:
        """Of tracks that end before they settled."""
        return [
            Shot(track.number, track.best, track.best.monotonic)
            for track in tracks
            if track.best is not None and not track.sent and track.hits >= self._options.min_hits
        ]


def _centre(box: tuple[float, float, float, float]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2


def _closeness(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> float:
    """Above 0 when two boxes can be of one face: 1 + overlap when they overlap, less when they are only near."""
    ratio = one[2] / max(other[2], 1e-6)
    if not 0.5 <= ratio <= 2:
        return 0.0
    across = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    down = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    common = max(0.0, across) * max(0.0, down)
    overlap = common / (one[2] * one[3] + other[2] * other[3] - common)
    if overlap >= MIN_OVERLAP:
        return 1 + overlap
    (x, y), (u, v) = _centre(one), _centre(other)
    distance = math.hypot(x - u, y - v) / ((one[2] + other[2]) / 2)
    return max(0.0, 1 - distance / MAX_STEP)
