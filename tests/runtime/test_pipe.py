"""Standard input: one photo, a stream of JPEGs, raw frames, and what is none of these."""

from __future__ import annotations

import os
import struct
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.reading import ReadOptions
from facexp.sources import open_sources
from facexp.sources.pipe import JpegStream, Pipe
from facexp.sources.shots import Shot


def picture(value: int, noise: int = 40) -> NDArray[np.uint8]:
    """A picture of its own gray, with noise that makes all byte values appear in a JPEG."""
    grain = np.random.default_rng(value).integers(0, noise, (48, 64, 3), np.uint8)
    return np.asarray(grain + np.uint8(value), np.uint8)


def jpeg(value: int, progressive: bool = False) -> bytes:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive), cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    return cv2.imencode(".jpg", picture(value), options)[1].tobytes()


def value_of(shot: Shot) -> int:
    return round((float(shot.image.mean()) - 19.5) / 10) * 10


@pytest.fixture
def standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that reads the given bytes as the source "-"."""

    def read(data: bytes, **options: Any) -> list[Shot]:
        path = tmp_path / "stdin"
        path.write_bytes(data)
        with path.open() as file:
            monkeypatch.setattr(sys, "stdin", file)
            (source,) = open_sources(["-"])
            return list(source.shots(ReadOptions(**options)))

    return read


def error_of(standard_input: Any, data: bytes, **options: Any) -> str:
    with pytest.raises(SourceError) as caught:
        standard_input(data, **options)
    return str(caught.value)


class Trickle:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size

    def read(self, _: int, /) -> bytes:
        part, self.data = self.data[: self.size], self.data[self.size :]
        return part

    def fileno(self) -> int:
        raise AssertionError("this stream never has to wait")


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpegs_are_split_where_they_end(size: int, progressive: bool) -> None:
    """Guards the boundaries: thumbnails and tables hold end markers, and a read may stop inside a marker."""
    thumbnail = jpeg(90)
    whole = []
    for value in (20, 60, 100):
        data = jpeg(value, progressive)
        # an application segment, like EXIF
        whole.append(data[:2] + b"\xff\xe5" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:])
    heading = b"--frame\r\nContent-Type: image/jpeg\r\n\r\n"
    stream = JpegStream(Pipe(Trickle(b"".join(heading + data for data in whole) + b"\r\n--frame--", size)))
    got = []
    while stream.grab():
        got.append(stream._grabbed)
        image = stream.retrieve()
        assert image is not None
        assert image.shape == (48, 64, 3)
    assert got == whole


def test_a_stream_of_jpegs_gives_every_frame(standard_input: Any) -> None:
    """Guards `ffmpeg -f mjpeg - | facexp-infer -`: every frame, in order, and the options that select some."""
    data = b"".join(jpeg(value) for value in range(20, 200, 10))
    shots = standard_input(data)
    assert [value_of(shot) for shot in shots] == list(range(20, 200, 10))
    assert [shot.index for shot in shots] == list(range(18))
    assert [shot.time_ms for shot in shots[:4]] == pytest.approx([0, 100 / 3, 200 / 3, 100])
    assert {(shot.source, str(shot.save_as), shot.fps, shot.captured_s) for shot in shots} == {("-", "stdin", 30, None)}
    assert [shot.index for shot in standard_input(data, every=5, start_s=0.2)] == [10, 15]
    assert [shot.index for shot in standard_input(data, max_fps=10, duration_s=0.4)] == [0, 3, 6, 9]


def test_a_damaged_jpeg_is_skipped_and_reported(standard_input: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Guards a camera that drops bytes, which must not end the run: what follows is read, the loss reported."""
    jpegs = [jpeg(value) for value in range(20, 120, 10)]
    jpegs[3] = jpegs[3][:-200]
    # no marker where one is required, and no size
    jpegs[6] = jpegs[6][:4] + b"\0\2" + jpegs[6][6:].replace(b"\xff\xc0", b"\xff\xef")
    data, got = b"".join(jpegs), []
    for policy in ("all", "latest"):
        caplog.clear()
        assert error_of(standard_input, data, policy=policy) == "-: 2 frames do not decode, first: frame 3"
        assert caplog.messages == ["-: frame 3 cannot be decoded and is skipped"]
    sizeless = jpegs[0].replace(b"\xff\xc0", b"\xff\xef")
    assert error_of(standard_input, 2 * sizeless, policy="latest") == "-: 2 frames do not decode, first: frame 0"
    stream = JpegStream(Pipe(Trickle(data, 1000)))
    while stream.grab():
        got.append(stream._grabbed)
    assert got == jpegs


def test_pictures_of_a_recording_keep_their_own_sizes(tmp_path: Path) -> None:
    """Guards a camera that was rotated: FFmpeg would squeeze each picture into the size of the first."""
    sizes = [(48, 64)] * 2 + [(64, 36)] * 3
    jpegs = [cv2.imencode(".jpg", np.full((*size, 3), 20 * i, np.uint8))[1].tobytes() for i, size in enumerate(sizes)]
    path = tmp_path / "x.mjpeg"
    path.write_bytes(b"".join([*jpegs[:2], jpegs[2][:-20], *jpegs[2:]]))
    shots = next(open_sources([str(path)])).shots(ReadOptions(policy="latest"))
    got = [next(shots) for _ in sizes]
    assert [(shot.index, shot.time_ms) for shot in got] == [(i, 40.0 * i) for i in (0, 1, 3, 4, 5)]
    assert [(shot.image.shape[:2], round(float(shot.image.mean()))) for shot in got] == [
        (size, 20 * i) for i, size in enumerate(sizes)
    ]
    with pytest.raises(SourceError, match=r"x\.mjpeg: 1 frame does not decode: frame 2$"):
        next(shots)


def test_a_read_only_system_reads_what_needs_no_temporary_file(
    standard_input: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Guards a root that is read-only: a PNG needs no file, and a format that does need one says so."""

    def nowhere(**_: object) -> None:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", nowhere)
    (shot,) = standard_input(cv2.imencode(".png", picture(60))[1].tobytes())
    assert value_of(shot) == 60
    assert error_of(standard_input, cv2.imencode(".webp", picture(60))[1].tobytes()) == (
        "-: needs a folder for temporary files: No usable temporary directory found in ['/tmp']; set TMPDIR to one"
    )


def test_the_newest_frame_of_a_pipe(standard_input: Any) -> None:
    """Guards --policy latest for a camera in a pipe: each frame has its age and how many were dropped before it."""
    shots = standard_input(b"".join(jpeg(value) for value in range(20, 200, 10)), policy="latest")
    assert shots[-1].index == 17
    assert all(shot.captured_s is not None for shot in shots)
    assert sum(1 + (shot.dropped or 0) for shot in shots) == 18


def test_one_photo_of_any_format_is_read(standard_input: Any, tmp_path: Path) -> None:
    """Guards `cat photo | facexp-infer -`: formats, phone JPEGs with more pictures appended, animations."""
    image = picture(60)
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tiff"):
        data = cv2.imencode(suffix, image)[1].tobytes()
        (shot,) = standard_input(data)
        assert (shot.fps, shot.index, value_of(shot), str(shot.save_as)) == (None, 0, 60, "stdin"), suffix
    first, *_ = phone = (jpeg(60), jpeg(120))
    directory = first[:2] + b"\xff\xe2" + struct.pack(">H", 10) + b"MPF\0" + bytes(4) + first[2:]
    (shot,) = standard_input(directory + phone[1])
    assert (shot.fps, value_of(shot)) == (None, 60)
    # an appended clip, whose data may hold a JPEG start marker, and data of an unknown kind
    clip = struct.pack(">I4s", 24, b"ftyp") + b"mp42" * 4 + jpeg(100)[:200] + bytes(1 << 17)
    for trailer in (clip, b"Data" * 8 + clip, bytes(1 << 17)):
        (shot,) = standard_input(jpeg(60) + trailer)
        assert (shot.fps, value_of(shot)) == (None, 60)
    animation = cv2.Animation()
    animation.frames = [np.full((8, 10, 4), (40 * i, 0, 0, 255), np.uint8) for i in range(1, 4)]
    animation.durations = np.array([70, 70, 70], np.int32)  # type: ignore[assignment]
    assert cv2.imwriteanimation(str(tmp_path / "x.gif"), animation)
    assert [shot.time_ms for shot in standard_input((tmp_path / "x.gif").read_bytes())] == [0, 70, 140]


def test_raw_frames_are_read(standard_input: Any) -> None:
    """Guards --raw: rows, columns and colours in their places, and an incomplete last frame."""
    frames = [picture(value) for value in (20, 60, 100)]
    data = b"".join(frame.tobytes() for frame in frames)
    shots = standard_input(data, raw=(64, 48))
    assert all(np.array_equal(shot.image, frame) for shot, frame in zip(shots, frames, strict=True))
    # the analyzer and the drawing may write into the frames
    assert all(shot.image.flags.writeable for shot in shots)
    assert error_of(standard_input, data[:-1], raw=(64, 48)) == (
        "-: ends inside frame 2, after 9,215 of its 9,216 bytes: are the frames really 64x48 in BGR24?"
    )


def test_input_without_a_picture_is_refused(standard_input: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the one-line error for each wrong input, and the frames before a break."""
    assert error_of(standard_input, b"") == "-: is empty (0 bytes)"
    assert error_of(standard_input, b"hello\n" * 99) == "-: is not a photo or clip in a format that facexp reads"
    message = error_of(standard_input, struct.pack(">I4s", 16, b"ftyp") + b"isom" * 99)
    assert message == "-: is a MP4 clip: give its file name, or pipe ffmpeg -i FILE -f mjpeg - | facexp-infer -"
    assert error_of(standard_input, jpeg(60)[:-400]) == "-: breaks off in frame 0: its JPEG data end early"
    two = jpeg(60) + jpeg(80)
    assert error_of(standard_input, two + jpeg(100)[:-400]) == "-: breaks off in frame 2: its JPEG data end early"
    assert error_of(standard_input, two + bytes(1 << 17)) == "-: breaks off after frame 1: what follows is not a JPEG"
    boundary = b"--frame\r\n" + b"x" * (1 << 17)
    assert error_of(standard_input, boundary) == "-: holds no JPEG"
    monkeypatch.setattr(sys, "stdin", None)
    (source,) = open_sources(["-"])
    with pytest.raises(SourceError, match=r"^-: standard input is closed"):
        next(source.shots())
    start, end = os.openpty()
    with os.fdopen(end) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        (source,) = open_sources(["-"])
        with pytest.raises(SourceError, match="standard input is a terminal"):
            next(source.shots())
    os.close(start)


def test_a_frame_is_given_before_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards live pipes: from the second JPEG on, a frame is given once its last byte has come."""
    end, start = os.pipe()
    with os.fdopen(end) as file:
        monkeypatch.setattr(sys, "stdin", file)
        (source,) = open_sources(["-"])
        shots = source.shots()
        os.write(start, jpeg(20) + jpeg(60))
        watchdog = threading.Timer(60, os.close, [start])
        watchdog.start()
        assert [value_of(next(shots)) for _ in range(2)] == [20, 60]
        os.write(start, jpeg(100))
        assert value_of(next(shots)) == 100
        watchdog.cancel()
        os.close(start)
        assert list(shots) == []


def test_a_non_blocking_pipe_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards pipes that another program has set to O_NONBLOCK: no data yet is not the end."""
    end, start = os.pipe()
    os.set_blocking(end, False)
    parts = [jpeg(20), jpeg(60)[:300], jpeg(60)[300:], jpeg(100)]

    def wait(*_: object) -> None:
        # called when the reader has found no data
        if parts:
            os.write(start, parts.pop(0))
        else:
            os.close(start)

    monkeypatch.setattr("facexp.sources.pipe.select.select", wait)
    with os.fdopen(end) as file:
        monkeypatch.setattr(sys, "stdin", file)
        (source,) = open_sources(["-"])
        assert [value_of(shot) for shot in source.shots()] == [20, 60, 100]


def test_fill_bytes_before_a_marker_are_skipped(standard_input: Any) -> None:
    """Guards cameras that pad: any number of 0xFF bytes may stand before a marker."""
    filled = [data[:2] + b"\xff" * count + data[2:] for count, data in ((1, jpeg(20)), (2, jpeg(60)), (3, jpeg(100)))]
    stream = JpegStream(Pipe(Trickle(b"".join(filled), 1 << 20)))
    got = []
    while stream.grab():
        got.append(stream._grabbed)
    assert got == filled
