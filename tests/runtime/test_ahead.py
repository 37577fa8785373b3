"""Reading ahead changes when files are read, and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest

from facexp.errors import SourceError
from facexp.reading import DEFAULTS, ReadOptions
from facexp.sources import ahead, live
from facexp.sources.shots import Shot


class Scripted:
    """A source of so many frames, each of which notes in a list that it is read; one without a rate is a photo."""

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
    """Each source with its shots, as `ahead.read_ahead` gives them; what is seen in each is its own index."""
    for source, shots in ahead.read_ahead(sources, options, readers, lambda shot: shot.index):
        yield source, (_whole(shot, seen) for shot, seen in shots)


def _whole(shot: Shot, seen: int) -> Shot:
    assert seen == shot.index
    return shot


def taken(sources: list[Any], readers: int) -> list[str]:
    found = []
    for source, shots in read_ahead(sources, DEFAULTS, readers):
        try:
            for shot in shots:
                found.append(f"{source.name}{shot.index}")
        except SourceError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("readers", [1, 2, 7])
def test_order_and_errors_are_those_of_reading_one_by_one(readers: int) -> None:
    """Guards: the order of sources and frames, an error in its place, nothing twice and nothing left out."""
    sources = [Scripted("a", [], 1, None), Scripted("b", [], 3, 25.0), Scripted("c", [], 0, None)]
    sources += [Scripted("d", [], 2, 30.0, "rtsp://d"), Scripted("e", [], 1, None)]
    expected = ["a0", "b0", "b1", "b2", "b: breaks off", "c: breaks off", "d0", "d1", "d: breaks off", "e0"]
    assert taken(sources, 0) == expected
    assert taken(sources, readers) == expected


def test_photos_are_read_ahead_and_cameras_are_not() -> None:
    """Guards: overlap at all, its bound, and a camera that would fill while files before it are analysed."""
    log: list[str] = []
    names = "abcdef"
    sources = [Scripted(name, log, 1, None) for name in names] + [Scripted("x", log, 1, None, "0")]
    seen = 0
    for source, shots in read_ahead(sources, DEFAULTS, 2):
        if source.name == "a":
            # both that follow are read without being asked for; no more of them than that
            _until(lambda: set(log) == {"a0", "b0", "c0"})
        assert len(log) <= seen + 3
        assert ("x0" in log) is False
        seen += len(list(shots))
    assert seen == 7


def test_a_photo_alone_is_read_without_a_thread() -> None:
    """Guards the time of one small photo, in which there is nothing to do beside its decoding."""
    (found,) = read_ahead([Scripted("a", [], 1, None)], DEFAULTS, 2)
    before = threading.active_count()
    assert len(list(found[1])) == 1
    assert threading.active_count() == before


def test_large_files_wait_for_their_turn(tmp_path: Path) -> None:
    """Guards the memory of a small machine: photos of 50 megapixels and more, several at once."""
    log: list[str] = []
    for name, size in (("small", 10), ("large", 8_000_001)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    large = Scripted(str(tmp_path / "large"), log, 1, None)
    small = Scripted(str(tmp_path / "small"), log, 1, None)
    reading = read_ahead([small, large, small], DEFAULTS, 2)
    assert len(list(next(reading)[1])) == 1
    _until(lambda: log == [f"{small.name}0"] * 2)
    assert [shot.source for _, shots in reading for shot in shots] == [large.name, small.name]
    assert f"{large.name}0" in log


def test_giving_up_waits_for_no_reader() -> None:
    """Guards: Ctrl-C while a file on a lost network drive is read."""
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
        # Python itself would wait for it at its end
        assert live.hangs()
    finally:
        release.set()
    _until(lambda: not live.hangs())


def _until(true: Any) -> None:
    waiting = threading.Event()
    for _ in range(500):
        if true():
            return
        waiting.wait(0.01)
    pytest.fail("nothing is read ahead")
