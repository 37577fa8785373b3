"""Cameras and streams: the newest frame, whatever they do; and standard input."""

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
"""Longer than anything takes on a machine that has other things to do."""


class Script:
    """A source whose every grab does what the test puts in: True is a frame, False the end, an Event hangs."""

    fps = 25.0
    finite = False
    converts = False
    made: ClassVar[list[Script]] = []

    def __init__(self, *steps: Any) -> None:
        Script.made.append(self)
        self.events: list[threading.Event] = []
        self.steps: queue.Queue[Any] = queue.Queue()
        self.asked = 0
        self.closed = threading.Event()
        self.put(*steps)

    def put(self, *steps: Any) -> None:
        for step in steps:
            self.steps.put(step)
            if isinstance(step, threading.Event):
                self.events.append(step)

    def let_go(self) -> None:
        """End whatever still reads."""
        self.put(False)
        for event in self.events:
            event.set()

    def wait_until_asked(self, times: int) -> None:
        """Until the reading thread has dealt with all but the last of so many grabs."""
        deadline = time.monotonic() + PATIENCE_S
        while self.asked < times:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def grab(self) -> bool:
        self.asked += 1
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
        return np.full((4, 6, 3), self.asked, np.uint8)

    def close(self) -> None:
        self.closed.set()


def opening(*captures: Script | Exception) -> Callable[[], Script]:
    """Opens one after the other; an exception is a failed attempt."""
    left = iter(captures)

    def open_next() -> Script:
        capture = next(left)
        if isinstance(capture, Exception):
            raise capture
        return capture

    return open_next


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """A thread that still reads would be taken for one that hangs by whatever is tested next."""
    yield
    while Script.made:
        Script.made.pop().let_go()
    deadline = time.monotonic() + PATIENCE_S
    while live.hangs():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short pauses between the attempts."""
    monkeypatch.setattr(live, "PAUSES_S", (0.001, 0.002, 0.004))


def read(frames: Iterator[LiveFrame], count: int) -> list[LiveFrame]:
    return [next(frames) for _ in range(count)]


def test_the_newest_frame_and_how_many_it_replaced() -> None:
    """Guards the promise of a camera that is never behind, and `dropped`, which must account for each frame."""
    script = Script(True)
    frames = live_frames(opening(script), "x", ReadOptions(timeout_s=PATIENCE_S))
    first = next(frames)
    assert (first.index, first.dropped, first.time_ms, first.fps) == (0, 0, 0.0, 25.0)
    script.put(*[True] * 5)
    script.wait_until_asked(7)
    before = time.monotonic()
    newest = next(frames)
    assert (newest.index, newest.dropped) == (5, 4)
    assert newest.captured_s <= before
    assert newest.time_ms == pytest.approx(1000 * (newest.captured_s - first.captured_s))
    script.put(True)
    assert [(frame.index, frame.dropped) for frame in read(frames, 1)] == [(6, 0)]
    frames.close()  # type: ignore[attr-defined]
    script.let_go()
    assert script.closed.wait(PATIENCE_S)


def test_all_frames_and_no_more_than_two_in_memory() -> None:
    """Guards --policy all: nothing is lost, and a slow analysis holds the reading up instead of filling the memory."""
    script = Script(*[True] * 20)
    frames = live_frames(opening(script), "x", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    for wanted in range(20):
        frame = next(frames)
        assert (frame.index, frame.dropped) == (wanted, 0)
        assert script.asked <= wanted + 4
    frames.close()  # type: ignore[attr-defined]


def test_every_max_fps_and_start_leave_frames_out_on_purpose() -> None:
    """Guards `dropped`: what was not wanted has not been dropped."""
    script = Script(True)
    frames = live_frames(opening(script), "x", ReadOptions(every=3, policy="all", timeout_s=PATIENCE_S))
    script.put(*[True] * 6)
    assert [(frame.index, frame.dropped) for frame in read(frames, 3)] == [(0, 0), (3, 0), (6, 0)]
    frames.close()  # type: ignore[attr-defined]
    opened = Script(True, threading.Event())
    frames = live_frames(opening(opened), "x", ReadOptions(start_s=0.2, duration_s=0.1, timeout_s=PATIENCE_S))
    assert list(frames) == []


def test_a_source_that_stops_is_opened_again(quick: None, caplog: pytest.LogCaptureFixture) -> None:
    """Guards a cable that is pulled and put back: growing pauses, each attempt told, numbers and times go on."""
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
        # after a frame the pauses start anew
        "cam: has stopped; opening it again in 0.001 s (attempt 1)",
    ]
    assert captures[0].closed.wait(PATIENCE_S)  # type: ignore[union-attr]
    frames.close()  # type: ignore[attr-defined]


def test_a_read_that_hangs_is_given_up(
    quick: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a driver that never comes back: its thread is left behind, and what it brings late is not shown."""
    monkeypatch.setattr(live, "_GOODBYE_S", 0.01)
    stuck = threading.Event()
    first, second = Script(True, stuck), Script(True)
    frames = live_frames(opening(first, second), "cam", ReadOptions(policy="all", timeout_s=0.3))
    with caplog.at_level(logging.WARNING, "facexp"):
        assert [frame.index for frame in read(frames, 2)] == [0, 1]
    assert caplog.messages == ["cam: gave no picture for 0.3 s; opening it again in 0.001 s (attempt 1)"]
    assert live.hangs()
    stuck.set()
    assert first.closed.wait(PATIENCE_S)
    assert first.asked == 2
    frames.close()  # type: ignore[attr-defined]


def test_threads_that_hang_do_not_add_up(
    quick: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards days without a camera: after a few threads that hang no further one is started, until one comes back."""
    monkeypatch.setattr(live, "_GOODBYE_S", 0.01)
    stuck = threading.Event()
    captures = [Script(True, stuck), *(Script(stuck) for _ in range(20))]
    options = ReadOptions(policy="all", timeout_s=0.05, duration_s=2.0)
    with caplog.at_level(logging.WARNING, "facexp"):
        assert len(list(live_frames(opening(*captures), "cam", options))) == 1
    assert sum(capture.asked > 0 for capture in captures) == 4
    assert "cam: still hangs; opening it again in 0.004 s (attempt 5)" in caplog.messages


def test_a_source_that_never_works_is_an_error() -> None:
    """Guards a mistyped address: said at once, instead of tried for ever; and a camera that stays dark."""
    for script, options, said in (
        (SourceError("cannot be opened"), ReadOptions(), "cannot be opened"),
        (Script(False), ReadOptions(), "has stopped"),
        (Script(threading.Event()), ReadOptions(timeout_s=0.1), "gave no picture for 0.1 s"),
        (Script(threading.Event()), ReadOptions(duration_s=0.1), "gave no picture in 0.1 s"),
    ):
        with pytest.raises(SourceError, match=f"^{re.escape(said)}$"):
            next(live_frames(opening(script), "x", options))


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_camera() -> None:
    """Guards against hiding a bug behind endless attempts."""
    with pytest.raises(ZeroDivisionError):
        next(live_frames(opening(Script(ZeroDivisionError())), "x", ReadOptions()))


def test_duration_ends_a_source_that_hangs() -> None:
    """Guards --duration: it is kept although no frame comes, and is no error."""
    frames = live_frames(
        opening(Script(True, threading.Event())), "x", ReadOptions(duration_s=0.3, timeout_s=PATIENCE_S)
    )
    start = time.monotonic()
    assert [frame.index for frame in frames] == [0]
    assert 0.3 <= time.monotonic() - start < PATIENCE_S / 2


def test_a_pipe_that_pauses_ends_by_the_clock() -> None:
    """Guards --duration with --policy latest for a pipe, whose end is the end, but whose frames carry no times."""
    script = Script(True, threading.Event())
    script.finite = True
    options = ReadOptions(duration_s=0.3, timeout_s=PATIENCE_S, policy="latest")
    assert [frame.index for frame in live_frames(opening(script), "-", options)] == [0]


def test_a_clip_that_is_slow_to_open_is_read_for_its_duration() -> None:
    """Guards --duration of a clip behind an address: by the clip's own times, however long opening takes."""
    script = Script(*[True] * 3, False)
    script.finite = True
    script.stamp_ms = lambda: 40.0 * (script.asked - 1)  # type: ignore[method-assign]

    def slowly() -> Script:
        time.sleep(0.5)
        return script

    frames = live_frames(slowly, "x", ReadOptions(duration_s=0.2, timeout_s=PATIENCE_S))
    assert [frame.index for frame in frames] == [0, 1, 2]


def test_times_and_numbers_go_on_after_a_gap(quick: None) -> None:
    """Guards the records of a camera that was lost: they count from its first frame, not from when it came back."""
    captures = [Script(True, False), Script(True, False), Script(True)]
    frames = live_frames(opening(*captures), "cam", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    found = read(frames, 3)
    frames.close()  # type: ignore[attr-defined]
    for frame in found:
        assert frame.time_ms == pytest.approx(1000 * (frame.captured_s - found[0].captured_s))


def test_frames_that_are_left_out_are_a_sign_of_life() -> None:
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


def test_who_stops_early_gives_the_source_back() -> None:
    """Guards the camera of whoever breaks off under --policy all: a frame that nobody takes must not keep it open."""
    script = Script(*[True] * 5)
    frames = live_frames(opening(script), "x", ReadOptions(policy="all", timeout_s=PATIENCE_S))
    next(frames)
    script.wait_until_asked(3)
    frames.close()  # type: ignore[attr-defined]
    assert script.closed.wait(5)


def test_an_analysis_that_takes_longer_than_the_patience() -> None:
    """Guards --policy all with a slow network: it is the source that waits, and is not called silent for it."""
    script = Script(*[True] * 6)
    frames = live_frames(opening(script), "x", ReadOptions(policy="all", timeout_s=1.0))
    found = read(frames, 1)
    time.sleep(1.5)
    found += read(frames, 3)
    assert [frame.index for frame in found] == [0, 1, 2, 3]
    frames.close()  # type: ignore[attr-defined]


def test_a_clip_behind_an_address_that_hangs_is_an_error() -> None:
    """Guards a clip against being read from its beginning again, its frames given twice."""
    script = Script(True, threading.Event())
    script.finite = True
    frames = live_frames(opening(script), "x", ReadOptions(timeout_s=0.3))
    assert next(frames).index == 0
    with pytest.raises(SourceError, match=r"^gave no picture for 0.3 s$"):
        next(frames)


class Still(Script):
    """A stream that shows the same all the time."""

    converts = True

    def retrieve(self) -> Image | None:
        return np.full((4, 6, 3), 80, np.uint8)


def test_a_stream_that_shows_the_same_is_asked_once(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a camera in the dark: its other client must not come with every new start, and no frame is lost."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(live, "interlaced", lambda *what: asked.append(what))
    frames = live_frames(opening(Still(True, False), Still(True, True)), "x", ReadOptions(policy="all"), "rtsp://x")
    assert [frame.index for frame in read(frames, 3)] == [0, 1, 2]
    frames.close()  # type: ignore[attr-defined]
    assert asked == [("rtsp://x", 0.0, 10, 5.0)]


def test_an_interlaced_stream_is_not_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards 1080i: OpenCV gives what its memory held, which no other attempt mends."""
    monkeypatch.setattr(live, "interlaced", lambda *_: True)
    with pytest.raises(SourceError, match=r"^is interlaced, which OpenCV cannot convert: set it to send progressive"):
        next(live_frames(opening(Still(True, True)), "x", ReadOptions(timeout_s=PATIENCE_S), "rtsp://x"))


def test_the_first_frame_of_a_stream_waits_for_the_next_that_comes() -> None:
    """Guards --every and --max-fps of a stream: the next frame that is wanted may be a minute away."""
    script = Script(True, True)
    script.converts = True
    frames = live_frames(opening(script), "x", ReadOptions(every=100, timeout_s=PATIENCE_S), "rtsp://x")
    first = next(frames)
    assert (first.index, first.dropped, first.time_ms) == (0, 0, 0.0)
    assert first.captured_s <= time.monotonic()
    frames.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("still", [False, True])
def test_a_first_frame_that_came_in_time_is_given(monkeypatch: pytest.MonkeyPatch, still: bool) -> None:
    """Guards --duration: it may end while the first frame waits for the next, or somebody is asked about both."""
    script = Still(True) if still else Script(True)
    script.converts = True
    ask, next_frame = threading.Event(), threading.Timer(0.6, script.put, (True,))
    monkeypatch.setattr(live, "interlaced", lambda *_: ask.wait(0.6))
    if still:
        script.put(True)
    else:
        next_frame.start()
    options = ReadOptions(duration_s=0.3, timeout_s=PATIENCE_S, policy="all")
    assert [frame.index for frame in live_frames(opening(script), "x", options, "rtsp://x")][:1] == [0]
