"""Cameras and streams: a thread reads, and whoever analyses gets the newest frame, however long the last one took.

The thread may hang where nothing can be interrupted (a driver, a name server): it is then left behind, and the source
opened anew. A capture that ends or hangs is reopened with growing pauses, for ever.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from facexp.capture import Capture
from facexp.clip_health import Converted, InterlacedError, interlaced
from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import Pace, ReadOptions

PAUSES_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""How long to wait before each attempt to open a source again; the last one for all that follow."""

_LONGEST_WAIT_S = 0.5
_GOODBYE_S = 0.3
_MOST_HANGING = 4
# looked at by the process that is asked whether they are interlaced, in this part of the time before a loss
_PROBED, _PROBED_WITHIN = 10, 0.5
_THREAD = "facexp-live"
READER = "facexp-read"
"""What the threads that read files are called."""

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True, eq=False)
class LiveFrame:
    """One frame and how it came."""

    index: int
    """Number of the frame among all that came, from 0."""
    time_ms: float
    """Milliseconds since the source's first frame."""
    captured_s: float
    """When it came, on the clock of `time.monotonic`."""
    dropped: int
    """How many frames were replaced by newer ones since the last one that was taken."""
    image: Image
    """BGR (H, W, 3) uint8."""
    fps: float
    """Frames a second of the source, as far as it is known."""


def live_frames(
    open_capture: Callable[[], Capture], name: str, options: ReadOptions, address: str | None = None
) -> Iterator[LiveFrame]:
    """The frames of a live source, opened again whenever it stops.

    `open_capture` runs in the reading thread; `name` is how the log calls the source; `address` opens it where its
    frames may be interlaced. Raises SourceError, with the reason alone, for a source that never gives a frame, for one
    that is interlaced, and for a finite one that hangs. Closing the iterator ends the reading.
    """
    pace, started, attempt = Pace(options), time.monotonic(), 0
    # asked once, not whenever a source that is still is opened again
    converted = _converted(address, options)
    first_s: float | None = None
    count = 0
    readers: list[_Reader] = []
    while True:
        readers = [reader for reader in readers if reader.runs]
        lost = "still hangs"
        if len(readers) < _MOST_HANGING:
            reader = _Reader(open_capture, options, pace, converted, count, first_s)
            readers.append(reader)
            try:
                while (frame := reader.take()) is not None:
                    attempt = 0
                    yield frame
                if reader.first_s is None:
                    within = "" if math.isinf(options.end_s) else f" in {options.end_s:g} s"
                    raise SourceError(f"gave no picture{within}")
                return
            except _LostError as error:
                lost = str(error)
            finally:
                reader.stop()
            count, first_s = reader.count, reader.first_s
            if first_s is None or reader.finite:
                raise SourceError(lost)
        pause = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
        attempt += 1
        _logger.warning("%s: %s; opening it again in %g s (attempt %d)", name, lost, pause, attempt)
        left = (first_s or started) + options.end_s - time.monotonic()
        time.sleep(max(0.0, min(pause, left)))
        if left <= pause:
            return


def hangs() -> bool:
    """Whether a thread that reads a live source, or files, does not come back, so that Python itself cannot end."""
    readers = [thread for thread in threading.enumerate() if thread.name.startswith((_THREAD, READER))]
    for thread in readers:
        thread.join(_GOODBYE_S)
    return any(thread.is_alive() for thread in readers)


class _LostError(Exception):
    """A capture has ended, failed or hung; the message says which."""


class _Reader:
    """The thread of one capture, and the one frame that waits to be taken."""

    def __init__(
        self,
        open_capture: Callable[[], Capture],
        options: ReadOptions,
        pace: Pace,
        converted: Converted[LiveFrame],
        count: int,
        first_s: float | None,
    ) -> None:
        """`count` frames came before this capture was opened, the first of them at `first_s`."""
        self.count, self.first_s = count, first_s
        self.finite = False
        # whether the frames have times of their own, as those of a clip behind an address
        self._timed = False
        # when the capture was opened
        self._opened_s: float | None = None
        self._open, self._options, self._pace, self._converted = open_capture, options, pace, converted
        self._changed = threading.Condition()
        self._waiting: LiveFrame | None = None
        self._over = self._stopped = False
        self._failure: Exception | None = None
        self._alive_s = time.monotonic()
        # a daemon: one that hangs must not keep the program from ending
        self._thread = threading.Thread(target=self._run, name=_THREAD, daemon=True)
        self._thread.start()

    @property
    def runs(self) -> bool:
        return self._thread.is_alive()

    def _end_s(self) -> float:
        """When the options let it end; a clip counts by its own times, before the first frame the waiting counts.

        Not while the first frame waits for the next: it is one of those that came in time.
        """
        if self._timed or self._opened_s is None or self._converted.waits:
            return math.inf
        return (self.first_s or self._opened_s) + self._options.end_s

    def take(self) -> LiveFrame | None:
        """The waiting frame or the next; None where the source or the time for it is at its end. Raises _LostError."""
        with self._changed:
            while self._waiting is None:
                if self._failure is not None:
                    raise self._failure
                now, end_s = time.monotonic(), self._end_s()
                if self._over or now >= end_s:
                    return None
                patience_s = self._alive_s + self._options.timeout_s - now
                if patience_s <= 0:
                    raise _LostError(self._silent())
                self._changed.wait(min(patience_s, end_s - now, _LONGEST_WAIT_S))
            frame, self._waiting = self._waiting, None
            self._alive_s = time.monotonic()
            self._changed.notify_all()
            return frame

    def stop(self) -> None:
        """Ask the thread to end, and wait a moment for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(_GOODBYE_S)

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
            # raised again in the thread that takes
            failure = error
        with self._changed:
            self._failure = failure
            self._over = failure is None
            self._changed.notify_all()

    def _read(self, capture: Capture) -> None:
        self.finite, self._timed = capture.finite, capture.stamp_ms() is not None
        self._opened_s = time.monotonic()
        latest = self._options.policy == "latest" or (self._options.policy is None and not capture.finite)
        lost: str | None = None
        while not self._stopped:
            before = time.monotonic()
            grabbed = capture.grab()
            now = time.monotonic()
            if not grabbed:
                if not capture.finite:
                    # FFmpeg gives a read up by itself, and does not tell that from an end
                    lost = self._silent() if now - before >= self._options.timeout_s else "has stopped"
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
                self._alive_s = now
                # the first would grow old if it waited for the next one that is wanted
                if not self._converted.waits:
                    continue
            image = capture.retrieve()
            if image is None:
                continue
            self._alive_s = now
            came = LiveFrame(index, time_ms, now, 0, image, capture.fps)
            for frame in self._converted.passed(came) if capture.converts else (came,):
                if wanted or frame is not came:
                    self._offer(frame, latest)
        if capture.converts and not self._stopped:
            for frame in self._converted.rest():
                self._offer(frame, latest)
        if lost is not None:
            raise SourceError(lost)

    def _silent(self) -> str:
        return f"gave no picture for {self._options.timeout_s:g} s"

    def _offer(self, frame: LiveFrame, latest: bool) -> None:
        with self._changed:
            while not latest and self._waiting is not None and not self._stopped:
                self._changed.wait()
            dropped = 0 if self._waiting is None else self._waiting.dropped + 1
            self._waiting = replace(frame, dropped=dropped)
            self._alive_s = time.monotonic()
            self._changed.notify_all()


def _converted(address: str | None, options: ReadOptions) -> Converted[LiveFrame]:
    """What keeps interlaced frames back of the source of this address."""

    def asked(_: LiveFrame) -> bool:
        return address is not None and interlaced(address, 0.0, _PROBED, _PROBED_WITHIN * options.timeout_s)

    instead = "let it send progressive pictures, or pipe ffmpeg -i ADDRESS -vf yadif -f mjpeg - | facexp-infer -"
    return Converted(asked, instead)
