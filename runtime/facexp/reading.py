"""Options for reading a source: which frames are taken, and how long to wait for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from facexp.checks import expect_count

NOMINAL_FPS = 30.0
"""The frame rate that is assumed if a stream declares none."""

_MAX_FPS = 240

# a camera's frames are never exactly on time, so a frame may be early by this share of the interval between the frames
# taken; less than a third, so that out of every three frames always the same one is taken
_EARLY_SHARE_OF_INTERVAL = 0.3
# and by at most this share of the time since the previous frame: if earlier, the next frame is closer to the due time
_EARLY_SHARE_OF_FRAME = 0.5

Policy = Literal["latest", "all"]


def sane_fps(rate: float) -> float:
    """Return the rate that a decoder reports, or NOMINAL_FPS if it is not above 0 and at most 240."""
    return rate if 0 < rate <= _MAX_FPS else NOMINAL_FPS


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a source is read; for a photo only `reduced` matters. Raises ValueError for a value out of its range."""

    every: int = 1
    """Take every N-th frame, counted from the source's first."""
    max_fps: float | None = None
    """Take at most this many frames per second of the source; None takes all."""
    start_s: float = 0.0
    """Skip this many seconds at the beginning."""
    duration_s: float | None = None
    """Read this many seconds after that; None reads to the end."""
    policy: Policy | None = None
    """Which frames to give if the analysis is slower than the source: "latest", only the newest, or "all". None: the
    newest of a live source, and all of a pipe, where the writing program waits. Files always give all."""
    timeout_s: float = 10.0
    """Give up a live source that gives no frame for this many seconds, and open it again."""
    raw: tuple[int, int] | None = None
    """Width and height of the raw BGR24 frames on standard input; None if they are encoded."""

    reduced: bool = False
    """Decode large JPEG photos at a half, a quarter or an eighth of their size, which takes half the time, and again
    larger if a face would be too small. Only for analysis: the picture that is returned is the small one."""

    def __post_init__(self) -> None:
        expect_count("every", self.every)
        for name, value in (("max_fps", self.max_fps), ("duration_s", self.duration_s), ("timeout_s", self.timeout_s)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be a number above 0, got {value}")
        if not 0 <= self.start_s < math.inf:
            raise ValueError(f"start_s must be a number of at least 0, got {self.start_s}")
        if self.policy not in (None, "latest", "all"):
            raise ValueError(f"policy must be latest or all, got {self.policy!r}")
        if self.raw is not None and (len(self.raw) != 2 or min(self.raw) < 1):
            raise ValueError(f"raw must be a width and a height of at least 1, got {self.raw}")

    @property
    def end_s(self) -> float:
        """When reading ends, in seconds of the source; infinity if it has no end."""
        return math.inf if self.duration_s is None else self.start_s + self.duration_s

    def taken_fps(self, fps: float) -> float:
        """Return how many frames a second are taken from a source that has `fps`."""
        return min(fps / self.every, self.max_fps or math.inf)


DEFAULTS = ReadOptions()
"""Every frame of a file or pipe, and the newest frame of a live source."""


class Pace:
    """Chooses which frames of one source to take; call `wants` for every frame in order."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._due_ms = 1000 * options.start_s
        self._last_ms = -math.inf

    def wants(self, index: int, time_ms: float) -> bool:
        """Return whether to take the frame with this number and time."""
        since_ms, self._last_ms = time_ms - self._last_ms, time_ms
        if index % self._options.every or time_ms < 1000 * self._options.start_s:
            return False
        if self._options.max_fps is None:
            return True
        interval_ms = 1000 / self._options.max_fps
        if time_ms < self._due_ms - min(_EARLY_SHARE_OF_INTERVAL * interval_ms, _EARLY_SHARE_OF_FRAME * since_ms):
            return False
        self._due_ms = (self._due_ms if time_ms < self._due_ms + interval_ms else time_ms) + interval_ms
        return True
