"""Recordings of what cannot be made again: they survive Ctrl-C, a full disk and a slow machine."""

from __future__ import annotations

import itertools
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest

from facexp.sinks import clip_file
from facexp.sinks.clip_file import MIN_FREE_BYTES, SinkError
from facexp.sinks.pictures import PictureSink
from facexp.sources.shots import Shot
from sink_files import files, frame, read_clip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_the_recording_of_an_endless_pipe_is_kept() -> None:
    """Guards `rpicam-vid ... | facexp-infer - --save out`, which only Ctrl-C ends."""

    def interrupted(source: str, total: int | None) -> None:
        with PictureSink(Path("out")) as sink:
            for index in range(3):
                image = np.full((360, 480, 3), 90, np.uint8)
                shot = Shot(source, PurePath("stdin"), index, 40.0 * index, image, 25.0, total)
                sink.write(frame(shot), shot)
            raise KeyboardInterrupt

    for source, total in (("x.mp4", None), ("-", 30), ("-", None)):
        assert files("out") == []
        with pytest.raises(KeyboardInterrupt):
            interrupted(source, total)
    assert files("out") == ["stdin.mkv"]
    assert len(read_clip("out/stdin.mkv")[1]) == 3
    # a second run must not replace it
    with pytest.raises(KeyboardInterrupt):
        interrupted("-", None)
    assert files("out") == ["stdin-2.mkv", "stdin.mkv"]


class WrappedWriter:
    """Wraps OpenCV's writer, to act before or after each frame; a subclass of it would crash."""

    fourcc = staticmethod(cv2.VideoWriter.fourcc)
    made = staticmethod(cv2.VideoWriter)

    def __init__(self, *arguments: Any) -> None:
        self.writer = self.made(*arguments)
        self.isOpened, self.release = self.writer.isOpened, self.writer.release

    def write(self, image: Any) -> None:
        self.writer.write(image)


def record(sink: PictureSink, times_ms: Sequence[float], size: tuple[int, int] = (480, 360), fps: float = 25.0) -> None:
    """Write frames of a camera, whose grays are their numbers."""
    for index, time_ms in enumerate(times_ms):
        image = np.full((size[1], size[0], 3), index % 200, np.uint8)
        shot = Shot("0", PurePath("camera0"), index, time_ms, image, fps, captured_s=0.0, dropped=0)
        sink.write(frame(shot), shot)


def test_a_recording_survives_ctrl_c_and_a_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards Ctrl-C while a frame is encoded, and a power cut: what was recorded until then is there."""

    class Interrupted(WrappedWriter):
        left = 100

        def write(self, image: Any) -> None:
            super().write(image)
            Interrupted.left -= 1
            if Interrupted.left == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "VideoWriter", Interrupted)

    def interrupted() -> None:
        with PictureSink(Path("out")) as sink:
            record(sink, [40.0 * index for index in range(200)])

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files("out") == ["camera0.mkv"]
    assert len(read_clip("out/camera0.mkv")[1]) == 100 - 4

    def power_cut() -> None:
        sink = PictureSink(Path("out"))
        record(sink, [40.0 * index for index in range(500)], (640, 480))
        shutil.copy("out/camera0-2.mkv", "out/now.mkv")
        sink.finish()

    Interrupted.left = 10_000
    power_cut()
    assert len(read_clip("out/now.mkv")[1]) > 100
    # before the first frame is in the file there is nothing to keep
    Interrupted.left = 2
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files("out") == ["camera0-2.mkv", "camera0.mkv", "now.mkv"]


def test_a_recording_stops_before_the_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards recordings of days: they end before the disk is full, with one message, and are kept."""
    free = [1 << 40]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    monkeypatch.setattr(clip_file, "_DISK_CHECK_INTERVAL_S", 0.0)
    with PictureSink(Path("out")) as sink:
        record(sink, [0, 40, 80])
        free[0] = MIN_FREE_BYTES - 1
        shot = Shot("0", PurePath("camera0"), 3, 120.0, np.zeros((360, 480, 3), np.uint8), 25.0, captured_s=0.0)
        with pytest.raises(SinkError, match="nothing more is recorded: fewer than 64 MB are left on the disk"):
            sink.write(frame(shot), shot)
        later = replace(shot, index=4, time_ms=160.0)
        sink.write(frame(later), later)
    assert len(read_clip("out/camera0.mkv")[1]) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_a_recording_stops_where_its_file_can_no_longer_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards recordings on FAT32, which takes 4 GB a file: OpenCV does not report that nothing more is written."""
    import resource

    monkeypatch.setattr(clip_file, "_DISK_CHECK_INTERVAL_S", 0.0)
    monkeypatch.setattr(clip_file, "_MAX_PIXELS_UNWRITTEN", 100 * 480 * 360)
    noise = np.random.default_rng(0).integers(0, 255, (8, 360, 480, 3), np.uint8)

    def endless() -> None:
        with PictureSink(Path("out")) as sink:
            for index in range(400):
                shot = Shot("0", PurePath("camera0"), index, 40.0 * index, noise[index % 8], 25.0, captured_s=0.0)
                sink.write(frame(shot), shot)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, hard))
    try:
        with pytest.raises(SinkError, match=r"nothing more is recorded: the disk takes no more .* 524,288 bytes$"):
            endless()
        # a run that ends before this is noticed
        monkeypatch.setattr(clip_file, "_MAX_PIXELS_UNWRITTEN", 1 << 40)
        with pytest.raises(SinkError, match=r"^out/camera0-2\.mkv: not all of \d+ frames could be written"):
            endless()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_clip("out/camera0.mkv")[1]


def test_a_folder_that_disappears_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the one-line error, and the run's other sources, if a folder is removed or its disk unplugged."""
    monkeypatch.setattr(clip_file, "_DISK_CHECK_INTERVAL_S", 0.0)
    with PictureSink(Path("out")) as sink:
        record(sink, [0, 40, 80])
        shutil.rmtree("out")
        shot = Shot("0", PurePath("camera0"), 3, 120.0, np.zeros((360, 480, 3), np.uint8), 25.0, captured_s=0.0)
        clip = sink._clip
        with pytest.raises(SinkError, match=r"^out/camera0\.mkv: cannot be written: No such file or directory$"):
            sink.write(frame(shot), shot)
        # the file is closed, so that the disk can be unmounted
        assert clip._writer.isOpened() is False  # type: ignore[union-attr]
        later = replace(shot, index=4, time_ms=160.0)
        sink.write(frame(later), later)


def test_a_slow_machine_records_fewer_frames_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against gaps that grow because the previous gap had to be filled with frames."""

    class Slow(WrappedWriter):
        def write(self, image: Any) -> None:
            time.sleep(0.05)
            super().write(image)

    monkeypatch.setattr(cv2, "VideoWriter", Slow)
    begin, now = time.monotonic(), 0.0
    with PictureSink(Path("out")) as sink:
        for index in range(12):
            now = time.monotonic() - begin
            shot = Shot(
                "0", PurePath("camera0"), index, 1000 * now, np.zeros((48, 64, 3), np.uint8), 25.0, captured_s=0.0
            )
            sink.write(frame(shot), shot)
            time.sleep(0.1)
    rate, frames, _ = read_clip("out/camera0.mkv")
    # a quarter of the time at 50 ms a frame; at 25 frames a second the last gap would take seconds
    assert rate <= 5.1
    assert now < 4
    assert len(frames) == pytest.approx(now * rate, abs=3)


def test_any_rate_that_the_machine_affords_can_be_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards a camera of 120 frames a second, on a machine that encodes a rate which MPEG-4 cannot store exactly."""
    ticks = itertools.count(step=0.25 / 98.763)
    clock = SimpleNamespace(monotonic=time.monotonic, perf_counter=lambda: next(ticks))
    monkeypatch.setattr(clip_file, "time", clock)
    with PictureSink(Path("out")) as sink:
        record(sink, [0.0, 10.0, 20.0], fps=120.0)
    rate, frames, _ = read_clip("out/camera0.mkv")
    assert rate == pytest.approx(98.76)
    assert len(frames) == 3


def test_a_camera_that_is_rotated_is_not_squeezed() -> None:
    """Guards the aspect ratio: a picture that does not fill the recording has black at its sides."""
    with PictureSink(Path("out")) as sink:
        for index, shape in enumerate(((360, 640, 3), (640, 360, 3))):
            shot = Shot(
                "0", PurePath("camera0"), index, 40.0 * index, np.full(shape, 200, np.uint8), 25.0, captured_s=0.0
            )
            sink.write(frame(shot), shot)
    video = cv2.VideoCapture("out/camera0.mkv")
    video.read()
    seen = video.read()[1]
    bright = np.flatnonzero(seen[180].mean(axis=-1) > 100)
    # 360x640 pixels are 202 wide where they are 360 high
    assert (bright[0], bright[-1]) == pytest.approx((219, 420), abs=3)


def test_a_picture_too_large_to_record_leaves_no_file() -> None:
    """Guards against an empty file that looks like a recording."""
    with PictureSink(Path("out")) as sink, pytest.raises(SinkError, match=r"camera0\.mkv: OpenCV cannot write"):
        record(sink, [0.0], (20000, 16))
    assert files("out") == []
