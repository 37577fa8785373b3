"""Reading ahead changes when files are read, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from facexp.errors import SourceError
from facexp.reading import DEFAULTS, ReadOptions
from facexp.sources import live, prefetch
from facexp.sources.shots import Shot


class Scripted:
    """A source of N frames that logs each read; one without a frame rate is a photo."""

    def __init__(self, name: str, log: list[str], frames: int, fps: float | None, address: str | None = None) -> None:
        self.name, self.address = name, address
        self._log, self._frames, self._fps = log, frames, fps

    def shots(self, options: ReadOptions) -> Iterator[Shot]:
        for index in range(self._frames):
            self._log.append(f"{self.name}{index}")
            yield Shot(self.name, PurePath(self.name), index, 0.0, np.zeros((2, 2, 3), np.uint8), self._fps)
        if self._fps is not None or self._frames == 0:
            raise SourceError(f"{self.name}: breaks off")


def read_ahead(sources: list[Any], options: ReadOptions, readers: int) -> Iterator[tuple[Any, Iterator[Shot]]]:
    """Yield each source with its shots, as `prefetch.read_ahead` does; the analysis of a shot is its index."""
    for source, shots in prefetch.read_ahead(sources, options, readers, lambda shot: shot.index):
        yield source, (_checked(shot, analysis) for shot, analysis in shots)


def _checked(shot: Shot, analysis: int) -> Shot:
    assert analysis == shot.index
    return shot


def frames_and_errors(sources: list[Any], readers: int) -> list[str]:
    found = []
    for source, shots in read_ahead(sources, DEFAULTS, readers):
        try:
            for shot in shots:
                found.append(f"{source.name}{shot.index}")
        except SourceError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("readers", [1, 2, 7])
def test_order_and_errors_are_the_same_as_without_reading_ahead(readers: int) -> None:
    """Guards the order of sources and frames, each error in its place; nothing is read twice or left out."""
    sources = [Scripted("a", [], 1, None), Scripted("b", [], 3, 25.0), Scripted("c", [], 0, None)]
    sources += [Scripted("d", [], 2, 30.0, "rtsp://d"), Scripted("e", [], 1, None)]
    expected = ["a0", "b0", "b1", "b2", "b: breaks off", "c: breaks off", "d0", "d1", "d: breaks off", "e0"]
    assert frames_and_errors(sources, 0) == expected
    assert frames_and_errors(sources, readers) == expected


def test_photos_are_read_ahead_and_cameras_are_not() -> None:
    """Guards that reading overlaps, its limit, and a camera whose buffer would fill while files are analysed."""
    log: list[str] = []
    names = "abcdef"
    sources = [Scripted(name, log, 1, None) for name in names] + [Scripted("x", log, 1, None, "0")]
    read = 0
    for source, shots in read_ahead(sources, DEFAULTS, 2):
        if source.name == "a":
            # the two photos that follow are read before they are requested, and no more than these two
            _wait_until(lambda: set(log) == {"a0", "b0", "c0"})
        assert len(log) <= read + 3
        assert ("x0" in log) is False
        read += len(list(shots))
    assert read == 7


def test_files_after_a_camera_are_read_when_the_camera_ends() -> None:
    """Guards the content of a file that changes while the camera runs, perhaps for hours."""
    log: list[str] = []
    camera = Scripted("x", log, 1, None, "0")
    sources = [Scripted("a", log, 1, None), camera, *(Scripted(name, log, 1, None) for name in "bcde")]
    for source, shots in read_ahead(sources, DEFAULTS, 2):
        if source.name == "x":
            # time enough to read ahead, if that were done
            time.sleep(0.1)
            assert log == ["a0"]
        assert len(list(shots)) == 1
    assert sorted(log) == ["a0", "b0", "c0", "d0", "e0", "x0"]


def test_a_single_photo_is_read_without_a_thread() -> None:
    """Guards the time for one small photo, for which a thread would have nothing to overlap with."""
    (found,) = read_ahead([Scripted("a", [], 1, None)], DEFAULTS, 2)
    before = threading.active_count()
    assert len(list(found[1])) == 1
    assert threading.active_count() == before


def test_very_large_files_are_not_read_ahead(tmp_path: Path) -> None:
    """Guards the memory of small machines: many photos of 50 megapixels and more at once."""
    log: list[str] = []
    for name, size in (("small", 10), ("large", 16_000_001)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    large = Scripted(str(tmp_path / "large"), log, 1, None)
    small = Scripted(str(tmp_path / "small"), log, 1, None)
    reading = read_ahead([small, large, small], DEFAULTS, 2)
    assert len(list(next(reading)[1])) == 1
    _wait_until(lambda: log == [f"{small.name}0"] * 2)
    assert [shot.source for _, shots in reading for shot in shots] == [large.name, small.name]
    assert f"{large.name}0" in log


def test_large_files_are_read_ahead_while_there_is_room(tmp_path: Path) -> None:
    """Guards the speed of cameras' own JPEGs, which have more than 8 MB, and the memory that they take all together."""
    log: list[str] = []
    sources = [Scripted(str(tmp_path / name), log, 1, None) for name in "abcdef"]
    for source in sources:
        with Path(source.name).open("wb") as file:
            file.truncate(12_000_000)
    reading = read_ahead(sources, DEFAULTS, 3)
    # of the four sources that wait now, two have 24 MB together, and a third would make it more
    assert len(list(next(reading)[1])) == 1
    _wait_until(lambda: len(log) == 2)
    assert [shot.source for _, shots in reading for shot in shots] == [source.name for source in sources[1:]]
    assert len(log) == len(sources)


def test_closing_does_not_wait_for_a_stuck_reader() -> None:
    """Guards against Ctrl-C hanging while a file on a lost network drive is read."""
    release, entered = threading.Event(), threading.Event()

    class Stuck(Scripted):
        def shots(self, options: ReadOptions) -> Iterator[Shot]:
            entered.set()
            release.wait(30)
            yield from ()

    try:
        reading = read_ahead([Scripted("a", [], 1, None), Stuck("b", [], 1, None)], DEFAULTS, 1)
        _, shots = next(reading)
        assert [shot.index for shot in shots] == [0]
        assert entered.wait(30)
        reading.close()
        assert not release.is_set()
        # Python itself would wait for this thread at exit
        assert live.hangs()
    finally:
        release.set()
    _wait_until(lambda: not live.hangs())


def _wait_until(condition: Any) -> None:
    waiting = threading.Event()
    for _ in range(500):
        if condition():
            return
        waiting.wait(0.01)
    pytest.fail("nothing is read ahead")
