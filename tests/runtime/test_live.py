"""Cameras and streams: the newest frame, whatever they do; and standard input."""

from __future__ import annotations

import itertools
import logging
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pytest

from facexp import live
from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.live import LiveFrame, live_frames
from facexp.reading import ReadOptions
from facexp.shots import Shot
from facexp.sources import open_sources

PATIENCE_S = 60.0
"""Longer than anything takes on a machine that has other things to do."""


class Script:
    """A source whose every grab does what the test puts in: True is a frame, False the end, an Event hangs."""

    fps = 25.0
    finite = False
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


def test_a_clip_that_is_slow_to_open_is_read_for_its_duration() -> None:
    """Guards --duration of a clip behind an address: by the clip's own times, however long opening takes."""
    script = Script(*[True] * 3, False)
    script.finite = True

    def slowly() -> Script:
        time.sleep(0.5)
        return script

    frames = live_frames(slowly, "x", ReadOptions(duration_s=0.2, timeout_s=PATIENCE_S))
    assert [frame.index for frame in frames] == [0, 1, 2]


def shots_of(address: str, **options: Any) -> Iterator[Shot]:
    (source,) = open_sources([address])
    return source.shots(ReadOptions(**options))


def test_a_web_camera_that_is_too_fast(web_camera: Any) -> None:
    """Guards against pictures that grow old: what is analysed is never more than a moment behind what was sent."""
    shots = shots_of(web_camera.address)
    behind = []
    for _ in range(12):
        shot = next(shots)
        behind.append(web_camera.sent - shot.index)
        # an analysis that takes six frames' time
        time.sleep(0.1)
    assert shot.image.shape == (48, 64, 3)
    assert shot.dropped is not None
    assert shot.index >= 12 + 11
    # reading one frame after the other would be more than 50 behind by now
    assert np.median(behind[6:]) < 20
    assert shot.fps is not None
    shots.close()  # type: ignore[attr-defined]


def test_what_is_secret_is_not_told_by_ffmpeg_either(capfd: pytest.CaptureFixture[str]) -> None:
    """Guards users of Python, whose stderr is not the command's: FFmpeg names what a play list leads to."""

    class Playlist(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            found = self.path.endswith("m3u8")
            self.send_response(200 if found else 404)
            self.end_headers()
            if found:
                lines = (
                    "#EXTM3U",
                    "#EXT-X-TARGETDURATION:2",
                    "#EXTINF:2.0,",
                    "0.ts?token=s3cret",
                    "#EXT-X-ENDLIST",
                    "",
                )
                self.wfile.write("\n".join(lines).encode())

    with ThreadingHTTPServer(("127.0.0.1", 0), Playlist) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(SourceError, match=r"http://\*\*\*@127\.0\.0\.1:\d+/a\.m3u8: cannot be opened"):
            next(shots_of(f"http://admin:s3cret@127.0.0.1:{server.server_port}/a.m3u8", timeout_s=5))
        server.shutdown()
    assert "s3cret" not in capfd.readouterr().err


def test_a_web_camera_that_is_turned(web_camera: Any) -> None:
    """Guards the pictures of a telephone that is turned: OpenCV would press them into the size of the first."""
    web_camera.images = [np.full(shape, 80, np.uint8) for shape in ((48, 64, 3),) * 20 + ((64, 36, 3),) * 200]
    shapes = []
    for shot in itertools.islice(shots_of(web_camera.address, policy="all"), 60):
        shapes.append(shot.image.shape)
        if shapes[-1] != (48, 64, 3):
            break
    assert shapes[0] == (48, 64, 3)
    assert shapes[-1] == (64, 36, 3)


def test_a_web_camera_that_stalls_dies_and_comes_back(
    web_camera: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the whole way through FFmpeg: the password is used and never shown, each loss is told and survived."""
    monkeypatch.setattr(live, "PAUSES_S", (0.05,))
    web_camera.plan = [(10, "stalls"), (10, "ends"), (0, "refused"), (0, "refused")]
    shots = shots_of(web_camera.address, timeout_s=4, duration_s=PATIENCE_S)
    indices = []
    with caplog.at_level(logging.WARNING, "facexp"):
        for shot in shots:
            indices.append(shot.index)
            if len(caplog.messages) >= 4:
                break
    assert [message.split("; ")[0].split(": ")[1] for message in caplog.messages] == [
        "gave no picture for 4 s",
        "has stopped",
        "cannot be opened",
        "cannot be opened",
    ]
    assert indices == sorted(set(indices))
    assert indices[-1] >= 20
    assert shot.source.startswith("http://***@127.0.0.1:")
    for text in (*caplog.messages, shot.source, str(shot.save_as)):
        assert not re.search("admin|s3cret", text)
    shots.close()  # type: ignore[attr-defined]


def test_an_rtsp_camera(rtsp_camera: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the language that network cameras speak: a password, every frame of --policy all, a new start."""
    monkeypatch.setattr(live, "PAUSES_S", (0.05,))
    with caplog.at_level(logging.WARNING, "facexp"):
        shots = shots_of(rtsp_camera.address, policy="all", timeout_s=PATIENCE_S)
        found = list(itertools.islice(shots, 30))
        shots.close()  # type: ignore[attr-defined]
    assert [shot.index for shot in found] == list(range(30))
    # the camera's own number is in its gray
    grays = [round(float(shot.image.mean())) - 20 for shot in found]
    assert grays == pytest.approx([*range(20), *range(10)], abs=1)
    (said,) = caplog.messages
    assert re.fullmatch(r"rtsp://\*\*\*@127\.0\.0\.1:\d+/live: has stopped; opening it again in .*", said)


def some_clip(folder: Path) -> Path:
    """60 frames, 25 a second."""
    path = folder / "x.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (64, 48))
    for i in range(60):
        writer.write(np.full((48, 64, 3), 4 * i, np.uint8))
    writer.release()
    return path


def test_a_clip_behind_an_address_ends(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards http://host/clip.avi: every frame with the clip's own time, and its end is no loss.

    The first picture, too, has to come within the duration: long enough for a busy machine to open the address.
    """
    some_clip(tmp_path)

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shots = list(shots_of(f"http://127.0.0.1:{server.server_port}/x.avi", duration_s=2.0))
        server.shutdown()
    assert [(shot.index, round(shot.time_ms), shot.dropped) for shot in shots] == [(i, 40 * i, 0) for i in range(50)]
    assert caplog.messages == []


def test_a_clip_whose_connection_breaks_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Guards http://host/clip.avi against half a clip that looks like all of it."""
    data = some_clip(tmp_path).read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server, caplog.at_level(logging.WARNING, "facexp"):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}/x.avi"
        count = len(list(shots_of(f"http://user:s3cret@{address}")))
        server.shutdown()
    assert 10 < count < 40
    (said,) = caplog.messages
    assert (
        said == f"http://***@{address}: ends after {count} of 60 frames: unless it was trimmed, its connection was lost"
    )


def test_a_wrong_password_is_one_line(web_camera: Any) -> None:
    """Guards the error of an address that cannot be opened: it says what to check, and nothing secret."""
    with pytest.raises(SourceError) as caught:
        next(shots_of(web_camera.address.replace("admin:s3cret", "admin:wr0ng")))
    said = str(caught.value)
    assert said.endswith("cannot be opened: check the address, its user name and password, and that the stream runs")
    assert not re.search("admin|wr0ng|s3cret", said)


def test_a_camera_that_is_not_there() -> None:
    """Guards the error of a camera's number, which may have been meant for a file."""
    if Path("/dev/video97").exists():
        pytest.skip("there is a /dev/video97")
    with pytest.raises(SourceError, match=r"^97: .*(no such camera|cannot be opened)"):
        next(shots_of("97"))


def test_a_video_device() -> None:
    """Guards a camera that V4L2 drives, where there is one."""
    devices = sorted(Path("/dev").glob("video*"))
    if not devices:
        pytest.skip("NO CAMERA TESTED: this machine has no /dev/video*")
    try:
        shots = list(shots_of(str(devices[0]), duration_s=2))
    except SourceError as error:
        pytest.skip(f"NO CAMERA TESTED: {error}")
    assert all(shot.image.shape[2] == 3 for shot in shots)
