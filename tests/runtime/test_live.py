"""Cameras and streams: the newest frame, lost connections, time limits, and interlacing."""

from __future__ import annotations

import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import pytest

from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import ReadOptions
from facexp.sources import live
from facexp.sources.live import LiveFrame, live_frames

PATIENCE_S = 60.0
"""Longer than anything takes on a busy machine, in seconds."""


class Script:
    """A source whose grabs do what the test queues: True is a frame, False the end, an Event hangs."""

    fps = 25.0
    finite = False
    converts = False
    made: ClassVar[list[Script]] = []

    def __init__(self, *steps: Any) -> None:
        Script.made.append(self)
        self.events: list[threading.Event] = []
        self.steps: queue.Queue[Any] = queue.Queue()
        self.grabs = 0
        self.closed = threading.Event()
        self.put(*steps)

    def put(self, *steps: Any) -> None:
        for step in steps:
            self.steps.put(step)
            if isinstance(step, threading.Event):
                self.events.append(step)

    def release(self) -> None:
        """End all that still reads from this source."""
        self.put(False)
        for event in self.events:
            event.set()

    def wait_for_grabs(self, times: int) -> None:
        """Wait until the reading thread has finished all but the last of this many grabs."""
        deadline = time.monotonic() + PATIENCE_S
        while self.grabs < times:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def grab(self) -> bool:
        self.grabs += 1
        step = self.steps.get()
        if isinstance(step, threading.Event):
            step.wait()
            return True
        if isinstance(step, Exception):
            raise step
        return bool(step)

    def stamp_ms(self) -> float | None:
        return None

    def retrieve(self) -> Image | None:
        return np.full((4, 6, 3), self.grabs, np.uint8)

    def close(self) -> None:
        self.closed.set()


def opening(*captures: Script | Exception) -> Callable[[], Script]:
    """Return a function that opens these captures one after the other; an exception is a failed attempt."""
    left = iter(captures)

    def open_next() -> Script:
        capture = next(left)
        if isinstance(capture, Exception):
            raise capture
        return capture

    return open_next


@pytest.fixture(autouse=True)
def scripts_end(no_thread_is_left: None) -> Iterator[None]:
    yield
    while Script.made:
        Script.made.pop().release()


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses between the attempts."""
    monkeypatch.setattr(live, "PAUSES_S", (0.001, 0.002, 0.004))


def read(frames: Iterator[LiveFrame], count: int) -> list[LiveFrame]:
    return [next(frames) for _ in range(count)]


def test_the_newest_frame_and_how_many_it_replaced() -> None:
    """Guards the promise that a camera never lags behind, and `dropped`, which must account for each frame."""
    script = Script(True)
    frames = live_frames(opening(script), "x", ReadOptions(timeout_s=PATIENCE_S))
    first = next(frames)
    assert (first.index, first.dropped, first.time_ms, first.fps) == (0, 0, 0.0, 25.0)
    script.put(*[True] * 5)
    script.wait_for_grabs(7)
    before = time.monotonic()
    newest = next(frames)
    assert (newest.index, newest.dropped) == (5, 4)
    assert newest.captured_s <= before
    assert newest.time_ms == pytest.approx(1000 * (newest.captured_s - first.captured_s))
    script.put(True)
    assert [(frame.index, frame.dropped) for frame in read(frames, 1)] == [(6, 0)]
    frames.close()  # type: ignore[attr-defined]
    script.release()
    assert script.closed.wait(PATIENCE_S)


def test_all_frames_and_no_more_than_two_in_memory() -> None:
    """Guards --policy all: nothing is lost, and a slow analysis delays the reading instead of filling the memory."""
    script = Script(*[True] * 20)
    frames = live_frames(opening(script), "x", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    for expected in range(20):
        frame = next(frames)
        assert (frame.index, frame.dropped) == (expected, 0)
        assert script.grabs <= expected + 4
    frames.close()  # type: ignore[attr-defined]


def test_frames_left_out_by_options_are_not_counted_as_dropped() -> None:
    """Guards `dropped`: a frame that was not wanted has not been dropped."""
    script = Script(True)
    frames = live_frames(opening(script), "x", ReadOptions(every=3, policy="all", timeout_s=PATIENCE_S))
    script.put(*[True] * 6)
    assert [(frame.index, frame.dropped) for frame in read(frames, 3)] == [(0, 0), (3, 0), (6, 0)]
    frames.close()  # type: ignore[attr-defined]
    opened = Script(True, threading.Event())
    frames = live_frames(opening(opened), "x", ReadOptions(start_s=0.2, duration_s=0.1, timeout_s=PATIENCE_S))
    assert list(frames) == []


def test_a_source_that_stops_is_opened_again(short_pauses: None, caplog: pytest.LogCaptureFixture) -> None:
    """Guards a cable that is unplugged and put back: growing pauses, each attempt logged, times continue."""
    gone = SourceError("cannot be opened")
    captures = [Script(True, True, False), gone, gone, gone, Script(True, False), Script(True)]
    frames = live_frames(opening(*captures), "cam", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    with caplog.at_level(logging.WARNING, "facexp"):
        found = read(frames, 4)
    assert [frame.index for frame in found] == [0, 1, 2, 3]
    assert sorted(found, key=lambda frame: frame.time_ms) == found
    assert caplog.messages == [
        "cam: has stopped; opening it again in 0.001 s (attempt 1)",
        "cam: cannot be opened; opening it again in 0.002 s (attempt 2)",
        "cam: cannot be opened; opening it again in 0.004 s (attempt 3)",
        "cam: cannot be opened; opening it again in 0.004 s (attempt 4)",
        # after a frame the pauses start again with the shortest
        "cam: has stopped; opening it again in 0.001 s (attempt 1)",
    ]
    assert captures[0].closed.wait(PATIENCE_S)  # type: ignore[union-attr]
    frames.close()  # type: ignore[attr-defined]


def test_what_is_left_of_a_stream_is_not_read_again(short_pauses: None, caplog: pytest.LogCaptureFixture) -> None:
    """Guards a run of months on HLS: while the encoder restarts, its server has a clip with the last seconds, which
    repeated them and ended the run with status 0."""
    rest = Script(True, True, False)
    rest.finite = True
    frames = live_frames(opening(Script(True, False), rest, Script(True)), "cam", ReadOptions(timeout_s=PATIENCE_S))
    with caplog.at_level(logging.WARNING, "facexp"):
        assert [frame.index for frame in read(frames, 2)] == [0, 1]
    assert caplog.messages[1:] == ["cam: has ended, only a clip of it is left; opening it again in 0.002 s (attempt 2)"]
    assert rest.grabs == 0
    frames.close()  # type: ignore[attr-defined]


def test_a_read_that_hangs_is_abandoned(
    short_pauses: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a driver that never returns: its thread is left behind, and its late frames are not shown."""
    monkeypatch.setattr(live, "_JOIN_TIMEOUT_S", 0.01)
    stuck = threading.Event()
    first, second = Script(True, stuck), Script(True)
    frames = live_frames(opening(first, second), "cam", ReadOptions(policy="all", timeout_s=0.3))
    with caplog.at_level(logging.WARNING, "facexp"):
        assert [frame.index for frame in read(frames, 2)] == [0, 1]
    assert caplog.messages == ["cam: gave no picture for 0.3 s; opening it again in 0.001 s (attempt 1)"]
    assert live.hangs()
    stuck.set()
    assert first.closed.wait(PATIENCE_S)
    assert first.grabs == 2
    frames.close()  # type: ignore[attr-defined]


def test_threads_that_hang_do_not_add_up(
    short_pauses: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards days without a camera: after a few hanging threads no further one is started until one returns."""
    monkeypatch.setattr(live, "_JOIN_TIMEOUT_S", 0.01)
    stuck = threading.Event()
    captures = [Script(True, stuck), *(Script(stuck) for _ in range(20))]
    options = ReadOptions(policy="all", timeout_s=0.05, duration_s=2.0)
    with caplog.at_level(logging.WARNING, "facexp"):
        assert len(list(live_frames(opening(*captures), "cam", options))) == 1
    assert sum(capture.grabs > 0 for capture in captures) == 4
    assert "cam: still hangs; opening it again in 0.004 s (attempt 5)" in caplog.messages


def test_a_source_that_never_works_is_an_error() -> None:
    """Guards a mistyped address, reported at once instead of retried forever, and a camera without pictures."""
    for script, options, message in (
        (SourceError("cannot be opened"), ReadOptions(), "cannot be opened"),
        (Script(False), ReadOptions(), "has stopped"),
        (Script(threading.Event()), ReadOptions(timeout_s=0.1), "gave no picture for 0.1 s"),
        (Script(threading.Event()), ReadOptions(duration_s=0.1), "gave no picture in 0.1 s"),
    ):
        with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
            next(live_frames(opening(script), "x", options))


def test_a_source_that_takes_too_long_to_open_is_an_error() -> None:
    """Guards the advice for a camera with a frame in ten seconds: FFmpeg needs several before it opens a stream."""

    def slowly() -> Script:
        time.sleep(0.5)
        return Script(False)

    with pytest.raises(SourceError, match=r"^did not open within 0\.1 s: .* more time if it has few frames a second$"):
        next(live_frames(slowly, "x", ReadOptions(timeout_s=0.1)))


def test_a_bug_is_not_taken_for_a_lost_camera() -> None:
    """Guards against hiding a bug behind endless attempts."""
    with pytest.raises(ZeroDivisionError):
        next(live_frames(opening(Script(ZeroDivisionError())), "x", ReadOptions()))


def test_duration_ends_a_source_that_hangs() -> None:
    """Guards --duration: it ends the run without an error although no frame comes."""
    frames = live_frames(
        opening(Script(True, threading.Event())), "x", ReadOptions(duration_s=0.3, timeout_s=PATIENCE_S)
    )
    start = time.monotonic()
    assert [frame.index for frame in frames] == [0]
    assert 0.3 <= time.monotonic() - start < PATIENCE_S / 2


def test_a_pipe_that_pauses_ends_by_the_clock() -> None:
    """Guards --duration with --policy latest for a pipe, which has an end but whose frames carry no times."""
    script = Script(True, threading.Event())
    script.finite = True
    options = ReadOptions(duration_s=0.3, timeout_s=PATIENCE_S, policy="latest")
    assert [frame.index for frame in live_frames(opening(script), "-", options)] == [0]


def test_a_clip_that_is_slow_to_open_is_read_for_its_duration() -> None:
    """Guards --duration of a clip behind an address: the clip's own times count, however long opening takes."""
    script = Script(*[True] * 3, False)
    script.finite = True
    script.stamp_ms = lambda: 40.0 * (script.grabs - 1)  # type: ignore[method-assign]

    def slowly() -> Script:
        time.sleep(0.5)
        return script

    frames = live_frames(slowly, "x", ReadOptions(duration_s=0.2, timeout_s=PATIENCE_S))
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_times_continue_after_a_gap(short_pauses: None) -> None:
    """Guards the records of a camera that was lost: times count from its first frame, not from its return."""
    captures = [Script(True, False), Script(True, False), Script(True)]
    frames = live_frames(opening(*captures), "cam", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    found = read(frames, 3)
    frames.close()  # type: ignore[attr-defined]
    for frame in found:
        assert frame.time_ms == pytest.approx(1000 * (frame.captured_s - found[0].captured_s))


def test_frames_that_are_left_out_do_not_time_out() -> None:
    """Guards --start and --max-fps beyond --timeout: a camera whose frames are not wanted yet is not silent."""

    class Steady(Script):
        def grab(self) -> bool:
            time.sleep(0.02)
            return not self.closed.is_set()

    options = ReadOptions(start_s=2.0, timeout_s=1.0, policy="all")
    frames = live_frames(opening(Steady()), "x", options)
    assert next(frames).time_ms >= 2000
    frames.close()  # type: ignore[attr-defined]
    Script.made[-1].closed.set()


def test_stopping_early_closes_the_source() -> None:
    """Guards the camera of a run that stops under --policy all: an unread frame must not keep it open."""
    script = Script(*[True] * 5)
    frames = live_frames(opening(script), "x", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    next(frames)
    script.wait_for_grabs(3)
    frames.close()  # type: ignore[attr-defined]
    assert script.closed.wait(5)


def test_an_analysis_longer_than_the_timeout_is_no_error() -> None:
    """Guards --policy all with a slow network: the source waits, and does not count as silent."""
    script = Script(*[True] * 6)
    frames = live_frames(opening(script), "x", ReadOptions(policy="all", timeout_s=1.0))
    found = read(frames, 1)
    time.sleep(1.5)
    found += read(frames, 3)
    assert [frame.index for frame in found] == [0, 1, 2, 3]
    frames.close()  # type: ignore[attr-defined]


def test_a_clip_behind_an_address_that_hangs_is_an_error() -> None:
    """Guards a clip against being read from its beginning again, which would repeat its frames."""
    script = Script(True, threading.Event())
    script.finite = True
    frames = live_frames(opening(script), "x", ReadOptions(timeout_s=0.3))
    assert next(frames).index == 0
    with pytest.raises(SourceError, match=r"^gave no picture for 0.3 s$"):
        next(frames)


class Still(Script):
    """A stream whose frames are all equal."""

    converts = True

    def retrieve(self) -> Image | None:
        return np.full((4, 6, 3), 80, np.uint8)


def test_a_still_stream_is_probed_once(short_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a camera in the dark: no second client at every reconnection, and no frame is lost."""
    probes: list[tuple[Any, ...]] = []
    monkeypatch.setattr(live, "interlaced", lambda *what: probes.append(what))
    frames = live_frames(opening(Still(True, False), Still(True, True)), "x", ReadOptions(policy="all"), "rtsp://x")
    assert [frame.index for frame in read(frames, 3)] == [0, 1, 2]
    frames.close()  # type: ignore[attr-defined]
    assert probes == [("rtsp://x", 0.0, 10, 5.0)]


def test_an_interlaced_stream_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards 1080i: OpenCV returns what was in its memory, which no other attempt fixes."""
    monkeypatch.setattr(live, "interlaced", lambda *_: True)
    with pytest.raises(SourceError, match=r"^is interlaced, which OpenCV cannot convert: set it to send progressive"):
        next(live_frames(opening(Still(True, True)), "x", ReadOptions(timeout_s=PATIENCE_S), "rtsp://x"))


def test_the_first_frame_of_a_stream_waits_for_the_next_grab() -> None:
    """Guards --every and --max-fps of a stream: the next frame that is expected may be a minute away."""
    script = Script(True, True)
    script.converts = True
    frames = live_frames(opening(script), "x", ReadOptions(every=100, timeout_s=PATIENCE_S), "rtsp://x")
    first = next(frames)
    assert (first.index, first.dropped, first.time_ms) == (0, 0, 0.0)
    assert first.captured_s <= time.monotonic()
    frames.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("still", [False, True])
def test_a_first_frame_that_came_in_time_is_given(monkeypatch: pytest.MonkeyPatch, still: bool) -> None:
    """Guards --duration: it may end while the first frame waits for the next, or while both are probed."""
    script = Still(True) if still else Script(True)
    script.converts = True
    never_set, next_frame = threading.Event(), threading.Timer(0.6, script.put, (True,))
    monkeypatch.setattr(live, "interlaced", lambda *_: never_set.wait(0.6))
    if still:
        script.put(True)
    else:
        next_frame.start()
    options = ReadOptions(duration_s=0.3, timeout_s=PATIENCE_S, policy="all")
    assert [frame.index for frame in live_frames(opening(script), "x", options, "rtsp://x")][:1] == [0]
