"""Damaged and interlaced clips, and what must not be taken for damage: estimated counts and open sizes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from facexp.errors import SourceError
from facexp.reading import ReadOptions
from facexp.sources import clip, clip_health
from facexp.sources.clip import Clip
from facexp.sources.clip_health import ClipFrame, InterlaceFilter

INTERLACED = "is interlaced, which OpenCV cannot convert: read the copy that ffmpeg -i FILE -vf yadif COPY.mp4 makes"


def write(path: Path, frames: int = 60) -> Path:
    """Write a clip of N frames of 64x48 at 25 a second, each with its own gray."""
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), 25.0, (64, 48))
    assert writer.isOpened()
    for i in range(frames):
        writer.write(np.full((48, 64, 3), 20 + 3 * (i % 60), np.uint8))
    writer.release()
    return path


def write_y4m(path: Path, luma: list[int], interlacing: str) -> Path:
    """Write an uncompressed clip with frames of these brightnesses: the one format that needs no encoder."""
    head = f"YUV4MPEG2 W64 H48 F25:1 I{interlacing} A1:1 C420jpeg\n".encode()
    path.write_bytes(head + b"".join(b"FRAME\n" + bytes([y]) * (64 * 48) + bytes([128]) * (64 * 24) for y in luma))
    return path


def open_clip(path: Path) -> Clip:
    kind = clip.sniff(path.read_bytes()[:256])
    assert kind is not None
    return Clip(path, kind)


def test_sound_may_outlast_the_picture(tmp_path: Path) -> None:
    """Guards Matroska, where OpenCV takes the length of the longest track for that of the pictures."""
    path = write(tmp_path / "x.mkv")
    data = bytearray(path.read_bytes())
    duration = data.index(b"\x44\x89\x88") + 3
    assert struct.unpack_from(">d", data, duration) == (2400,)
    struct.pack_into(">d", data, duration, 4800)
    path.write_bytes(data)
    opened = open_clip(path)
    assert opened.count == 120
    assert len(list(opened.frames())) == 60


def test_the_frame_count_of_a_fragmented_mp4_is_not_trusted(tmp_path: Path) -> None:
    """Guards MP4 that was piped or recorded in fragments, where the count is an estimate, too."""
    path = write(tmp_path / "x.mp4", 120)
    assert clip_health.ends_early(path, "MP4", 120, 25.0, 60, 2400.0) is not None
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", 8, b"moof"))
    assert clip_health.ends_early(path, "MP4", 120, 25.0, 60, 2400.0) is None


def test_a_truncated_box_header_is_tolerated(tmp_path: Path) -> None:
    """Guards MP4 whose last bytes announce a 64-bit length that is missing."""
    path = write(tmp_path / "x.mp4", 120)
    with path.open("ab") as file:
        file.write(struct.pack(">I4s", 1, b"free"))
    assert clip_health.cut_short(path, "MP4") is None
    assert clip_health.ends_early(path, "MP4", 120, 25.0, 60, 2400.0) is not None


def test_a_piped_avi_is_read_whole(tmp_path: Path) -> None:
    """Guards what FFmpeg writes to a pipe, where it cannot go back: placeholders for sizes and the count."""
    path = write(tmp_path / "x.avi")
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, 0xFFFFFFFF)
    stream = data.index(b"strh") + 8
    assert struct.unpack_from("<I", data, stream + 32) == (60,)
    struct.pack_into("<I", data, stream + 32, 1 << 30)
    path.write_bytes(data)
    opened = open_clip(path)
    assert opened.count is None
    assert len(list(opened.frames())) == 60


def test_an_interlaced_clip_is_refused(tmp_path: Path) -> None:
    """Guards DV and DVB: FFmpeg converts none of it, and OpenCV returns whatever was in its memory."""
    with pytest.raises(SourceError) as caught:
        next(open_clip(write_y4m(tmp_path / "x.y4m", [40, 80, 120], "t")).frames())
    assert str(caught.value) == INTERLACED


def test_a_single_frame_of_an_interlaced_clip_is_refused(tmp_path: Path) -> None:
    """Guards --every, which may leave nothing to compare the first frame with."""
    with pytest.raises(SourceError) as caught:
        list(open_clip(write_y4m(tmp_path / "x.y4m", [40, 80, 120], "b")).frames(ReadOptions(every=100)))
    assert str(caught.value) == INTERLACED


def test_a_still_clip_is_probed_once_and_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards screen recordings, whose frames are equal for minutes."""
    probed, real = [], clip_health.interlaced

    def spy(path: Path, start_ms: float, frames: int) -> bool:
        probed.append((start_ms, frames))
        return real(path, start_ms, frames)

    monkeypatch.setattr(clip, "interlaced", spy)
    frames = list(open_clip(write_y4m(tmp_path / "x.y4m", [80] * 30, "p")).frames())
    assert [(index, time_ms) for index, time_ms, _ in frames] == [(index, 40.0 * index) for index in range(30)]
    assert probed == [(0.0, 2)]


@pytest.mark.parametrize(("suffix", "probed"), [(".mkv", (1200.0, 75)), (".ts", (0.0, 81))])
def test_a_late_part_is_probed_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, probed: tuple[float, int]
) -> None:
    """Guards against decoding hours again for two frames: all is read only where seeking is impossible."""
    got: list[tuple[float, int]] = []
    monkeypatch.setattr(clip, "interlaced", lambda _, *where: got.append(where))
    list(open_clip(write(tmp_path / f"x{suffix}", 81)).frames(ReadOptions(start_s=3.2)))
    assert got == [pytest.approx(probed)]


def frame(index: int, gray: int) -> ClipFrame:
    return ClipFrame(index, 40.0 * index, np.full((48, 64, 3), gray, np.uint8))


class FakeProbe:
    """A stand-in for the probing process that records the frames it is called for."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.probed: list[tuple[int, float]] = []

    def __call__(self, frame: ClipFrame) -> bool:
        self.probed.append((frame.number, frame.time_ms))
        return self.answer


def numbers(frames: Iterator[ClipFrame]) -> list[int]:
    return [index for index, _, _ in frames]


def test_the_first_frame_waits_for_a_different_one() -> None:
    """Guards against stale memory: only a second frame that differs shows that the first one is real."""
    probe = FakeProbe(True)
    interlace_filter = InterlaceFilter(probe)
    assert numbers(interlace_filter.push(frame(0, 10))) == []
    assert numbers(interlace_filter.push(frame(1, 20))) == [0, 1]
    assert numbers(interlace_filter.push(frame(2, 30))) == [2]
    assert numbers(interlace_filter.flush()) == []
    assert probe.probed == []


def test_frames_before_the_interlaced_ones_are_given() -> None:
    """Guards concatenated clips: the first one's last frame repeats where the second cannot be converted."""
    probe = FakeProbe(True)
    interlace_filter = InterlaceFilter(probe)
    list(interlace_filter.push(frame(0, 10)))
    assert numbers(interlace_filter.push(frame(1, 20))) == [0, 1]
    with pytest.raises(SourceError, match="is interlaced"):
        list(interlace_filter.push(frame(2, 20)))
    assert probe.probed == [(2, 80.0)]


def test_a_failed_probe_does_not_refuse_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards still clips where no process can be started, or where one takes too long."""
    path = write_y4m(tmp_path / "x.y4m", [40, 80], "t")
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
    assert not clip_health.interlaced(path, 0.0, 2)
    monkeypatch.undo()
    monkeypatch.setattr(clip_health, "_PROBE_TIMEOUT_S", 0.001)
    assert not clip_health.interlaced(path, 0.0, 2)
