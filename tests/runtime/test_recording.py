"""Recordings of what cannot be had again: they outlive Ctrl-C, a full disk and a slow machine."""

from __future__ import annotations

import shutil
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
from facexp.sinks.clip_file import LEAST_FREE, SinkError
from facexp.sinks.pictures import PictureSink
from facexp.sources.shots import Shot
from facexp.types import Frame, Timings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def frame(shot: Shot) -> Frame:
    height, width = shot.image.shape[:2]
    return Frame(shot.source, shot.index, shot.time_ms, width, height, "cpu", (), Timings())


def read_clip(path: str) -> tuple[float, int]:
    """Frames a second, and how many frames there are."""
    capture, count = cv2.VideoCapture(path, cv2.CAP_FFMPEG), 0
    assert capture.isOpened()
    while capture.grab():
        count += 1
    return capture.get(cv2.CAP_PROP_FPS), count


def files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir()) if Path(folder).exists() else []


def test_the_recording_of_an_endless_pipe_is_kept() -> None:
    """Guards `rpicam-vid ... | facexp-infer - --save out`, which Ctrl-C alone ends."""

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
    assert read_clip("out/stdin.mkv")[1] == 3
    # a program that is started again has no right to it
    with pytest.raises(KeyboardInterrupt):
        interrupted("-", None)
    assert files("out") == ["stdin-2.mkv", "stdin.mkv"]


class Watched:
    """OpenCV's writer, with something before or after each frame; a subclass of its own would crash."""

    fourcc = staticmethod(cv2.VideoWriter.fourcc)
    made = staticmethod(cv2.VideoWriter)

    def __init__(self, *arguments: Any) -> None:
        self.writer = self.made(*arguments)
        self.isOpened, self.release = self.writer.isOpened, self.writer.release

    def write(self, image: Any) -> None:
        self.writer.write(image)


def recorded(sink: PictureSink, times_ms: Sequence[float], size: tuple[int, int] = (480, 360)) -> None:
    """Frames of a camera, gray by their number."""
    for index, time_ms in enumerate(times_ms):
        image = np.full((size[1], size[0], 3), index % 200, np.uint8)
        shot = Shot("0", PurePath("camera0"), index, time_ms, image, 25.0, captured_s=0.0, dropped=0)
        sink.write(frame(shot), shot)


def test_a_recording_outlives_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards Ctrl-C in the middle of a frame's encoding, and a machine without power: what was recorded is there."""

    class Interrupted(Watched):
        left = 100

        def write(self, image: Any) -> None:
            super().write(image)
            Interrupted.left -= 1
            if Interrupted.left == 0:
                raise KeyboardInterrupt

    monkeypatch.setattr(cv2, "VideoWriter", Interrupted)

    def interrupted() -> None:
        with PictureSink(Path("out")) as sink:
            recorded(sink, [40.0 * index for index in range(200)])

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files("out") == ["camera0.mkv"]
    assert read_clip("out/camera0.mkv")[1] == 100 - 4

    def unplugged() -> None:
        sink = PictureSink(Path("out"))
        recorded(sink, [40.0 * index for index in range(500)], (640, 480))
        shutil.copy("out/camera0-2.mkv", "out/now.mkv")
        sink.finish()

    Interrupted.left = 10_000
    unplugged()
    assert read_clip("out/now.mkv")[1] > 100
    # before the first frame is in it there is nothing to keep
    Interrupted.left = 2
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files("out") == ["camera0-2.mkv", "camera0.mkv", "now.mkv"]


def test_a_full_disk_is_told_when_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards recordings of days: they end before the disk does, once, and are kept."""
    free = [1 << 40]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free[0]))
    monkeypatch.setattr(clip_file, "_LOOK_S", 0.0)
    with PictureSink(Path("out")) as sink:
        recorded(sink, [0, 40, 80])
        free[0] = LEAST_FREE - 1
        shot = Shot("0", PurePath("camera0"), 3, 120.0, np.zeros((360, 480, 3), np.uint8), 25.0, captured_s=0.0)
        with pytest.raises(SinkError, match="nothing more is recorded: fewer than 64 MB are left on the disk"):
            sink.write(frame(shot), shot)
        later = replace(shot, index=4, time_ms=160.0)
        sink.write(frame(later), later)
    assert read_clip("out/camera0.mkv")[1] == 3


def test_a_disk_that_goes_is_told_of_its_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the one line, and the other sources of the run, against a folder that is removed or unplugged."""
    monkeypatch.setattr(clip_file, "_LOOK_S", 0.0)
    with PictureSink(Path("out")) as sink:
        recorded(sink, [0, 40, 80])
        shutil.rmtree("out")
        shot = Shot("0", PurePath("camera0"), 3, 120.0, np.zeros((360, 480, 3), np.uint8), 25.0, captured_s=0.0)
        with pytest.raises(SinkError, match=r"^out/camera0\.mkv: cannot be written: No such file or directory$"):
            sink.write(frame(shot), shot)
        later = replace(shot, index=4, time_ms=160.0)
        sink.write(frame(later), later)


def test_a_slow_machine_records_at_its_own_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against gaps that grow because the time of the one before had to be filled with frames."""

    class Slow(Watched):
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
    rate, frames = read_clip("out/camera0.mkv")
    # a quarter of the time at 50 ms a frame; at 25 a second the last gap would be of seconds
    assert rate <= 5.1
    assert now < 4
    assert frames == pytest.approx(now * rate, abs=3)


def test_a_camera_that_is_turned_is_not_pressed() -> None:
    """Guards the shape of what is seen: what does not fill the recording has black beside it."""
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
    # 360 of 640 columns high are 202 of 360
    assert (bright[0], bright[-1]) == pytest.approx((219, 420), abs=3)


def test_a_picture_that_no_recording_holds() -> None:
    """Guards the name: an empty file would stand for a recording."""
    with PictureSink(Path("out")) as sink, pytest.raises(SinkError, match=r"camera0\.mkv: OpenCV cannot write"):
        recorded(sink, [0.0], (20000, 16))
    assert files("out") == []
