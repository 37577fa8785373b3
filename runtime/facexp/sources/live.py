"""Cameras and streams: a thread reads all frames, so that the analysis always gets the newest one.

The thread may hang in a call that cannot be interrupted (a driver, a name lookup). It is then abandoned, and the source
is opened again in a new thread. A capture that ends or hangs is reopened indefinitely, after increasing pauses.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import Pace, ReadOptions
from facexp.sources.capture import Capture
from facexp.sources.clip_health import InterlacedError, InterlaceFilter, interlaced
from facexp.sources.pipe import Undecoded

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Pauses before each attempt to open a source again; the last one is used for all further attempts."""

_MAX_WAIT_S = 0.5
_JOIN_TIMEOUT_S = 0.3
_MAX_HANGING = 4
# the interlace probe reads this many frames, within this share of `timeout_s`
_PROBE_FRAMES, _PROBE_TIMEOUT_SHARE = 10, 0.5
_THREAD_NAME = "facexp-live"
READER_THREAD_PREFIX = "facexp-read"
"""Name prefix of the threads that read files."""

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True, eq=False)
class LiveFrame:
    """One frame of a live source, with its timing."""

    index: int
    """Number of the frame among all frames received, from 0."""
    time_ms: float
    """Milliseconds since the source's first frame; for a clip, its own timestamp."""
    captured_s: float
    """Time of arrival, on the clock of `time.monotonic`."""
    dropped: int
    """Number of frames that were replaced by newer ones since the last frame that was taken."""
    image: Image
    """BGR (H, W, 3) uint8."""
    fps: float
    """Frames per second of the source, as far as known."""


def live_frames(
    open_capture: Callable[[], Capture], name: str, options: ReadOptions, address: str | None = None
) -> Iterator[LiveFrame]:
    """Yield the frames of a live source, which is opened again whenever it stops.

    `open_capture` runs in the reading thread; `name` is the name of the source in the log; `address` is given where the
    frames may be interlaced, and is then used to check that. Raises SourceError, with only the reason as its message,
    for a source that never gives a frame, for an interlaced one, and for a finite one that hangs or, at its end, had
    damaged frames. Closing the iterator ends the reading.
    """
    pace, started, attempt = Pace(options), time.monotonic(), 0
    # shared by all captures, so that a motionless source is checked only once and not at each reopening
    interlace_filter = _interlace_filter(address, options)
    undecoded = Undecoded(name)
    first_s: float | None = None
    count = 0
    readers: list[_Reader] = []
    while True:
        readers = [reader for reader in readers if reader.is_running]
        reason = "still hangs"
        if len(readers) < _MAX_HANGING:
            reader = _Reader(open_capture, options, pace, interlace_filter, undecoded, count, first_s)
            readers.append(reader)
            try:
                while (frame := reader.take()) is not None:
                    attempt = 0
                    yield frame
                if reader.first_s is None:
                    within = "" if math.isinf(options.end_s) else f" in {options.end_s:g} s"
                    raise SourceError(f"gave no picture{within}")
                undecoded.raise_if_any()
                return
            except _LostError as error:
                reason = str(error)
            finally:
                reader.stop()
            count, first_s = reader.count, reader.first_s
            if first_s is None or reader.finite:
                raise SourceError(reason)
        pause_s = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
        attempt += 1
        _logger.warning("%s: %s; opening it again in %g s (attempt %d)", name, reason, pause_s, attempt)
        left = (first_s or started) + options.end_s - time.monotonic()
        time.sleep(max(0.0, min(pause_s, left)))
        if left <= pause_s:
            return


def hangs() -> bool:
    """Return whether a thread that reads a live source or files hangs, so that Python cannot exit normally."""
    readers = [
        thread for thread in threading.enumerate() if thread.name.startswith((_THREAD_NAME, READER_THREAD_PREFIX))
    ]
    for thread in readers:
        thread.join(_JOIN_TIMEOUT_S)
    return any(thread.is_alive() for thread in readers)


class _LostError(Exception):
    """A capture has ended, failed or hung; the message says which."""


class _Reader:
    """The reading thread of one capture, with a slot for the one frame that waits to be taken."""

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        options: ReadOptions,
        pace: Pace,
        interlace_filter: InterlaceFilter[LiveFrame],
        undecoded: Undecoded,
        count: int,
        first_s: float | None,
    ) -> None:
        """`count` frames were received before this capture was opened, the first of them at `first_s`."""
        self.count, self.first_s = count, first_s
        self.finite = False
        # whether the frames have their own timestamps, like those of a clip behind an address
        self._timed = False
        self._opened_s: float | None = None
        self._open, self._options, self._pace, self._interlace_filter = open_capture, options, pace, interlace_filter
        self._undecoded = undecoded
        self._changed = threading.Condition()
        self._waiting: LiveFrame | None = None
        self._ended = self._stopped = False
        self._failure: Exception | None = None
        self._last_activity_s = time.monotonic()
        # a daemon, so that a thread that hangs does not keep the program from exiting
        self._thread = threading.Thread(target=self._run, name=_THREAD_NAME, daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def _end_s(self) -> float:
        """Return the `time.monotonic` time at which the options end the reading, infinity where none applies yet.

        Before the first frame, the time since the capture was opened counts. None applies to a clip, whose own
        timestamps count, nor while the first frame is held back until the next one: it arrived in time.
        """
        if self._timed or self._opened_s is None or self._interlace_filter.holds_frame:
            return math.inf
        return (self.first_s or self._opened_s) + self._options.end_s

    def take(self) -> LiveFrame | None:
        """Return the waiting frame or the next one; None at the end of the source or of its time. Raises _LostError."""
        with self._changed:
            while self._waiting is None:
                if self._failure is not None:
                    raise self._failure
                now, end_s = time.monotonic(), self._end_s()
                if self._ended or now >= end_s:
                    return None
                remaining_s = self._last_activity_s + self._options.timeout_s - now
                if remaining_s <= 0:
                    raise _LostError(self._timeout_message())
                self._changed.wait(min(remaining_s, end_s - now, _MAX_WAIT_S))
            frame, self._waiting = self._waiting, None
            self._last_activity_s = time.monotonic()
            self._changed.notify_all()
            return frame

    def stop(self) -> None:
        """Signal the thread to end, and wait for it briefly."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(_JOIN_TIMEOUT_S)

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            capture = self._open()
            try:
                self._read(capture)
            finally:
                capture.close()
        except InterlacedError as error:
            failure = error
        except SourceError as error:
            failure = _LostError(str(error))
        except Exception as error:
            # raised again by `take`, in the thread of the caller
            failure = error
        with self._changed:
            self._failure = failure
            self._ended = failure is None
            self._changed.notify_all()

    def _read(self, capture: Capture) -> None:
        if capture.finite and self.first_s is not None:
            # only an endless source is opened again: this is what its server has left of an HLS stream whose encoder
            # stopped, or a picture in its place
            raise SourceError("has ended, only a clip of it is left")
        self.finite, self._timed = capture.finite, capture.stamp_ms() is not None
        self._opened_s = time.monotonic()
        latest = self._options.policy == "latest" or (self._options.policy is None and not capture.finite)
        reason: str | None = None
        while not self._stopped:
            grab_start_s = time.monotonic()
            grabbed = capture.grab()
            now = time.monotonic()
            if not grabbed:
                if not capture.finite:
                    # FFmpeg has a read timeout of its own, which looks like the end of the stream: only the time taken
                    # distinguishes them
                    reason = self._timeout_message() if now - grab_start_s >= self._options.timeout_s else "has stopped"
                break
            if self._stopped:
                return
            if self.first_s is None:
                self.first_s = now
            index, self.count = self.count, self.count + 1
            stamp_ms = capture.stamp_ms()
            time_ms = 1000 * (now - self.first_s) if stamp_ms is None else stamp_ms
            if time_ms >= 1000 * self._options.end_s:
                break
            wanted = self._pace.wants(index, time_ms)
            if not wanted:
                self._last_activity_s = now
                # while the first frame is held back, decode this one anyway: waiting for the next wanted frame would
                # make the first one old
                if not self._interlace_filter.holds_frame:
                    continue
            image = capture.retrieve()
            if image is None:
                # in an endless source they are as good as dropped: the next frame replaces them
                if capture.finite:
                    self._undecoded.note(index)
                continue
            self._last_activity_s = now
            current = LiveFrame(index, time_ms, now, 0, image, capture.fps)
            for frame in self._interlace_filter.push(current) if capture.converts else (current,):
                if wanted or frame is not current:
                    self._offer(frame, latest)
        if capture.converts and not self._stopped:
            for frame in self._interlace_filter.flush():
                self._offer(frame, latest)
        if reason is not None:
            raise SourceError(reason)

    def _timeout_message(self) -> str:
        if self._opened_s is None:
            # FFmpeg opens a stream only after several pictures, so that one with a picture each second takes seconds
            what = f"did not open within {self._options.timeout_s:g} s"
            return f"{what}: check that it runs, and allow more time if it has few frames a second"
        return f"gave no picture for {self._options.timeout_s:g} s"

    def _offer(self, frame: LiveFrame, latest: bool) -> None:
        with self._changed:
            while not latest and self._waiting is not None and not self._stopped:
                self._changed.wait()
            dropped = 0 if self._waiting is None else self._waiting.dropped + 1
            self._waiting = replace(frame, dropped=dropped)
            self._last_activity_s = time.monotonic()
            self._changed.notify_all()


def _interlace_filter(address: str | None, options: ReadOptions) -> InterlaceFilter[LiveFrame]:
    """Return the filter that stops interlaced frames; without an address it lets all frames through."""

    def is_interlaced(_: LiveFrame) -> bool:
        return address is not None and interlaced(address, 0.0, _PROBE_FRAMES, _PROBE_TIMEOUT_SHARE * options.timeout_s)

    hint = "set it to send progressive frames, or pipe ffmpeg -i ADDRESS -vf yadif -f mjpeg - | facexp-infer -"
    return InterlaceFilter(is_interlaced, hint)
