"""From sources to frames: the calls of the analyzer, and what remains of a source that breaks off."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import pytest

from facexp import Analyzer
from facexp.errors import EngineError, SourceError
from facexp.pipeline import analyze_sources, share_threads
from facexp.reading import ReadOptions
from facexp.sinks.pictures import save_picture
from facexp.sources import open_sources
from facexp.sources.shots import Shot, Source


class Clip:
    """A source of five frames that breaks off after three."""

    name = "x.mp4"
    address = None

    def shots(self, options: ReadOptions) -> Iterator[Shot]:
        for index in range(0, 3, options.every):
            yield Shot(self.name, PurePath(self.name), index, 40.0 * index, np.zeros((48, 64, 3), np.uint8), 25.0)
        raise SourceError("x.mp4: breaks off")


@pytest.fixture(scope="module")
def analyzer(tiny_bundle: Path) -> Analyzer:
    return Analyzer("cpu", bundle=tiny_bundle)


def test_an_error_keeps_the_frames_before_and_the_source_after(
    analyzer: Analyzer, tmp_path: Path, astronaut: Any
) -> None:
    """Guards the order: frames, then the error with the number of the missing frame, then the next source."""
    save_picture(tmp_path / "a.png", astronaut)
    sources: list[Any] = [Clip(), Source("gone.jpg", PurePath("gone.jpg"), "no such file or folder")]
    found = list(analyze_sources(analyzer, [*sources, *open_sources([str(tmp_path)])], ReadOptions(every=2)))
    frames = [frame for frame, _ in found]
    assert [(frame.index, frame.time_ms, frame.error) for frame in frames] == [
        (0, 0.0, None),
        (2, 80.0, None),
        (4, 0.0, "x.mp4: breaks off"),
        (0, 0.0, "gone.jpg: no such file or folder"),
        (0, 0.0, None),
    ]
    assert [shot is None for _, shot in found] == [False, False, True, True, False]
    assert (frames[0].width, frames[0].height, frames[0].device) == (64, 48, "cpu")
    assert (frames[2].width, frames[2].device, frames[2].timings, frames[2].faces) == (None, None, None, ())
    assert len(frames[4].faces) == 1
    assert frames[4].timings is not None
    assert frames[4].timings.detect_ms > 0


class Portrait:
    """A clip of one face that never moves."""

    address = None

    def __init__(self, name: str, image: Any) -> None:
        self.name, self._image = name, image

    def shots(self, options: ReadOptions) -> Iterator[Shot]:
        for index in range(0, 6, options.every):
            yield Shot(self.name, PurePath(self.name), index, 40.0 * index, self._image, 25.0)


def test_faces_are_tracked_within_a_clip_only(
    analyzer: Analyzer, astronaut: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards ids: new in each clip, none for photos and given crops; the settings reach the tracker."""
    small = np.ascontiguousarray(astronaut[::2, ::2])
    save_picture(tmp_path / "a.png", small)
    passes: list[int] = []
    detect = analyzer.detect
    monkeypatch.setattr(analyzer, "detect", lambda image, reduction=1: passes.append(0) or detect(image, reduction))
    sources: list[Any] = [Portrait("x.mp4", small), Portrait("y.mp4", small)]
    sources += open_sources([str(tmp_path / "a.png")])
    for settings, expected_passes in (
        ({}, 2),
        ({"detect_every": 2}, 6),
        ({"detect_every": 2, "options": ReadOptions(every=2)}, 4),
    ):
        passes.clear()
        frames = [frame for frame, _ in analyze_sources(analyzer, sources, smooth=0.2, **settings)]  # type: ignore[arg-type]
        faces = [face for frame in frames for face in frame.faces]
        assert len(faces) == len(frames)
        assert [face.id for face in faces] == [1] * (len(faces) - 1) + [None]
        assert [face.smoothed is None for face in faces] == [False] * (len(faces) - 1) + [True]
        # and one for the photo
        assert len(passes) == expected_passes + 1
    assert frames[1].timings is not None
    assert (frames[1].timings.detect_ms, frames[1].timings.keypoints_ms > 0) == (0, True)
    unsmoothed = [frame for frame, _ in analyze_sources(analyzer, sources[:1], smooth=0)]
    assert all(face.id == 1 and face.smoothed is None for frame in unsmoothed for face in frame.faces)
    crops = [frame for frame, _ in analyze_sources(analyzer, sources[:1], face_crops=True)]
    assert all(face.id is None for frame in crops for face in frame.faces)


@pytest.mark.parametrize(
    "fail",
    [
        lambda: np.empty(1 << 60, np.uint8),
        lambda: cv2.resize(np.zeros((1, 1), np.uint8), (1 << 30, 1 << 29)),
        lambda: (_ for _ in ()).throw(RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : std::bad_alloc")),
    ],
    ids=["numpy", "opencv", "onnxruntime"],
)
@pytest.mark.parametrize("readers", [0, 2])
def test_a_picture_too_large_for_the_memory_leaves_the_others(
    analyzer: Analyzer, astronaut: Any, monkeypatch: pytest.MonkeyPatch, fail: Any, readers: int
) -> None:
    """Guards a job on a small machine: the photo that is too large for it is reported, the rest are analysed."""
    small = np.ascontiguousarray(astronaut[::2, ::2])
    analyze = analyzer.analyze
    monkeypatch.setattr(analyzer, "analyze", lambda image: fail() if image.shape[0] < 200 else analyze(image))

    def photo(name: str, image: Any) -> Source:
        return Source(name, PurePath(name), data=cv2.imencode(".png", image)[1].tobytes())

    photos = [photo("large\n.png", small[:100]), photo("a.png", small)]
    frames = [frame for frame, _ in analyze_sources(analyzer, photos, readers=readers)]
    assert [frame.error for frame in frames] == ["'large\\n.png': is too large for this machine's memory", None]
    assert len(frames[1].faces) == 1


def test_photos_are_analysed_in_parallel_and_given_in_order(
    tiny_bundle: Path, astronaut: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a folder on all cores: two photos are analysed at the same time, and each gets its own record."""
    for number in range(6):
        save_picture(tmp_path / f"{number}.png", np.ascontiguousarray(astronaut[:: 1 + number % 2, 5 * number :]))
    sources = list(open_sources([str(tmp_path)]))
    threads, readers = share_threads(sources[:2], 2)
    analyzer = Analyzer("cpu", threads, bundle=tiny_bundle)
    one_by_one = [frame.faces for frame, _ in analyze_sources(analyzer, sources, readers=0)]
    both, detect = threading.Barrier(2), analyzer.detect
    met: list[int] = []

    def detect_in_parallel(*arguments: Any) -> Any:
        met.append(both.wait(20))
        return detect(*arguments)

    monkeypatch.setattr(analyzer, "detect", detect_in_parallel)
    found = list(analyze_sources(analyzer, sources, readers=readers))
    assert len(met) == 6
    assert [frame.source for frame, _ in found] == [source.name for source in sources]
    for (frame, _), faces in zip(found, one_by_one, strict=True):
        assert [face.box for face in frame.faces] == [face.box for face in faces]
        assert all(map(np.array_equal, [f.keypoints for f in frame.faces], [f.keypoints for f in faces]))
        assert frame.timings is not None
        assert frame.timings.keypoints_ms > 0


def test_an_error_in_a_reader_thread_reaches_the_caller(
    analyzer: Analyzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards an error in a reader's thread: it is not lost there, and the frames before it are given."""
    for number in range(3):
        save_picture(tmp_path / f"{number}.png", np.full((40, 30 + number, 3), 128, np.uint8))

    def fragile(image: Any, reduction: int = 1) -> list[Any]:
        if image.shape[1] == 32:
            raise EngineError("out of memory")
        return []

    monkeypatch.setattr(analyzer, "detect", fragile)
    frames = analyze_sources(analyzer, open_sources([str(tmp_path)]), readers=2)
    assert [next(frames)[0].error for _ in range(2)] == [None, None]
    with pytest.raises(EngineError, match="out of memory"):
        next(frames)


def test_threads_are_shared_between_photos(tmp_path: Path) -> None:
    """Guards both: several photos at once with a thread each, and all threads for a source that comes alone."""
    save_picture(tmp_path / "a.png", np.full((40, 30, 3), 128, np.uint8))
    (tmp_path / "b.txt").write_text("no photo")
    os.mkfifo(tmp_path / "c.png")
    photo, text, pipe, gone, camera = (
        Source(str(tmp_path / "a.png"), PurePath("a.png")),
        Source(str(tmp_path / "b.txt"), PurePath("b.txt")),
        Source(str(tmp_path / "c.png"), PurePath("c.png")),
        Source(str(tmp_path / "d.png"), PurePath("d.png")),
        Source("0", PurePath("0"), address="0"),
    )
    stored = Source("s3://bucket/a.png", PurePath("a.png"), data=(tmp_path / "a.png").read_bytes())
    assert share_threads([photo, stored]) == (1, None)
    assert share_threads([photo, photo], 4) == (1, 4)
    assert share_threads([photo, photo], 1) == (1, 0)
    assert share_threads([photo]) == (None, None)
    assert share_threads([photo], 4) == (4, 3)
    for other in (text, pipe, gone, camera):
        assert share_threads([photo, other]) == (None, None)
        assert share_threads([other, photo], 4) == (4, 3)
    assert share_threads([]) == (None, None)


def test_face_crops_need_no_detector(analyzer: Analyzer, tmp_path: Path) -> None:
    """Guards --face-crops: each picture is one face of the picture's size, also one that shows nothing."""
    save_picture(tmp_path / "a.png", np.full((40, 30, 3), 128, np.uint8))
    for crops, boxes in ((True, [(0.0, 0.0, 30.0, 40.0)]), (False, [])):
        ((frame, _),) = analyze_sources(analyzer, open_sources([str(tmp_path / "a.png")]), face_crops=crops)
        assert [face.box for face in frame.faces] == boxes
        assert frame.timings is not None
        assert (frame.timings.detect_ms > 0) is not crops
