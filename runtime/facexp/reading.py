"""Which frames of a source are wanted, and how long one waits for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from facexp.checks import expect_count

NOMINAL_FPS = 30.0
"""The rate that is assumed where a stream names none."""

_MOST_FPS = 240

# a camera is never quite in time; less than a third, so that of three frames it is always the same one
_EARLY = 0.3
# and less than the next frame would be late
_EARLY_OF_A_FRAME = 0.5

Policy = Literal["latest", "all"]


def sane_fps(rate: float) -> float:
    """The rate that a decoder names, or NOMINAL_FPS where it names none that can be."""
    return rate if 0 < rate <= _MOST_FPS else NOMINAL_FPS


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How a source is read; of a photo only `reduced` counts. Raises ValueError for a value out of its range."""

    every: int = 1
    """Every N-th frame is taken, counted from the source's first."""
    max_fps: float | None = None
    """At most so many frames of a second of the source; None takes all."""
    start_s: float = 0.0
    """The first so many seconds are left out."""
    duration_s: float | None = None
    """So many seconds are read after that; None reads to the end."""
    policy: Policy | None = None
    """What a reader that is too slow gets: "latest", the newest frame, or "all". None: live sources the newest, a pipe,
    whose writer waits, all. Files always give all."""
    timeout_s: float = 10.0
    """A live source that shows nothing for so many seconds is given up and opened again."""
    raw: tuple[int, int] | None = None
    """Width and height of the raw BGR24 frames on standard input; None where they are encoded."""

    reduced: bool = False
    """Large JPEG photos are decoded at a half, a quarter or an eighth, which takes half the time, and again in full
    where a face would be too small: for analysis alone, not for who wants the picture itself."""

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
        """When reading ends, in seconds of the source; infinite where it does not."""
        return math.inf if self.duration_s is None else self.start_s + self.duration_s

    def taken_fps(self, fps: float) -> float:
        """How many frames a second are left of a source that has `fps`."""
        return min(fps / self.every, self.max_fps or math.inf)


DEFAULTS = ReadOptions()
"""Every frame of a file, the newest of what is live."""


class Pace:
    """Chooses the frames of one source, asked in their order."""

    def __init__(self, options: ReadOptions) -> None:
        self._options = options
        self._due_ms = 1000 * options.start_s
        self._last_ms = -math.inf

    def wants(self, index: int, time_ms: float) -> bool:
        """Whether the frame of this number and time is one of those to take."""
        since_ms, self._last_ms = time_ms - self._last_ms, time_ms
        if index % self._options.every or time_ms < 1000 * self._options.start_s:
            return False
        if self._options.max_fps is None:
            return True
        beat_ms = 1000 / self._options.max_fps
        if time_ms < self._due_ms - min(_EARLY * beat_ms, _EARLY_OF_A_FRAME * since_ms):
            return False
        self._due_ms = (self._due_ms if time_ms < self._due_ms + beat_ms else time_ms) + beat_ms
        return True
