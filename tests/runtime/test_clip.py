"""Clips: every frame with its own time, and no break that is passed over silently."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.reading import ReadOptions
from facexp.sources import clip, clip_health
from facexp.sources.clip import Clip


def gray(index: int) -> int:
    return 20 + 5 * (index % 40)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with x.mp4, x.avi, x.mkv, x.ts: 120 noisy frames of 64x48 at 25 a second, each of its own gray."""
    folder = tmp_path_factory.mktemp("clips")
    noise = np.random.default_rng(0).integers(0, 20, (48, 64, 3), np.uint8)
    for suffix, codec in ((".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".ts", "mp4v")):
        fourcc = cv2.VideoWriter.fourcc(*codec)
        writer = cv2.VideoWriter(str(folder / f"x{suffix}"), cv2.CAP_FFMPEG, fourcc, 25.0, (64, 48))
        assert writer.isOpened()
        for i in range(120):
            writer.write(np.roll(noise, 7 * i, axis=1) + np.uint8(gray(i)))
        writer.release()
    return folder


def open_clip(path: Path) -> Clip:
    kind = clip.sniff(path.read_bytes()[:256])
    assert kind is not None
    return Clip(path, kind)


def read_until_error(opened: Clip) -> tuple[list[int], str]:
    """Return the numbers of the frames that come, and the message of the error that ends them."""
    got: list[int] = []
    try:
        for index, _, _ in opened.frames():
            got.append(index)
    except SourceError as error:
        return got, str(error)
    pytest.fail("the clip ends without an error")


def brightness(image: NDArray[np.uint8]) -> float:
    return float(image.mean()) - 9.5


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("every", [1, 7])
def test_frames_have_their_number_time_and_picture(clips: Path, suffix: str, every: int) -> None:
    """Guards --every: number and time are the clip's own, and the picture is that frame's."""
    opened = open_clip(clips / f"x{suffix}")
    assert opened.fps == pytest.approx(25)
    frames = list(opened.frames(ReadOptions(every=every)))
    assert [index for index, _, _ in frames] == list(range(0, 120, every))
    for index, time_ms, image in frames:
        assert time_ms == pytest.approx(40 * index, abs=0.6)
        assert image.shape == (48, 64, 3)
        assert brightness(image) == pytest.approx(gray(index), abs=3)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
@pytest.mark.parametrize("start_s", [0.5, 3.3])
def test_a_part_of_a_clip_has_its_own_numbers_and_times(clips: Path, suffix: str, start_s: float) -> None:
    """Guards --start and --duration: numbers, times and pictures are the clip's own, however the start was found."""
    options = ReadOptions(every=2, start_s=start_s, duration_s=0.4)
    frames = list(open_clip(clips / f"x{suffix}").frames(options))
    expected = [i for i in range(0, 120, 2) if 40 * i >= 1000 * start_s and 40 * i < 1000 * (start_s + 0.4)]
    assert [index for index, _, _ in frames] == expected
    for index, time_ms, image in frames:
        assert time_ms == pytest.approx(40 * index, abs=0.6)
        assert brightness(image) == pytest.approx(gray(index), abs=3)


def test_a_clip_whose_seek_lands_too_late_is_read_from_its_beginning(
    clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards --start where seeking lands too late: no frame of the part may be missing."""
    opened = open_clip(clips / "x.mp4")
    whole, late = opened._capture, cv2.VideoCapture(str(clips / "x.mp4"), cv2.CAP_FFMPEG)
    for _ in range(110):
        late.grab()
    monkeypatch.setattr(opened, "_capture", IgnoresSeek(late))
    assert [index for index, _, _ in opened.frames(ReadOptions(start_s=4.0))] == list(range(100, 120))
    whole.release()


class IgnoresSeek:
    """A capture that reports a successful seek, but has not moved."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.capture = capture

    def set(self, *_: object) -> bool:
        return True

    def __getattr__(self, name: str) -> object:
        return getattr(self.capture, name)


@pytest.mark.parametrize("kind", ["MPEG-TS", "MPEG", "raw H.264"])
def test_seeking_is_not_used_without_an_index(clips: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """Guards --start where OpenCV only guesses which frame a seek has reached."""
    opened = Clip(clips / "x.mp4", kind)
    whole = opened._capture
    monkeypatch.setattr(opened, "_capture", OffByOne(whole))
    assert [index for index, _, _ in opened.frames(ReadOptions(start_s=4.0))] == list(range(100, 120))


class OffByOne:
    """A capture whose position is reported one frame too low after a seek."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.capture = capture

    def get(self, what: int) -> float:
        return self.capture.get(what) - (what == cv2.CAP_PROP_POS_FRAMES)

    def __getattr__(self, name: str) -> object:
        return getattr(self.capture, name)


def test_a_part_of_concatenated_recordings(clips: Path, tmp_path: Path) -> None:
    """Guards concatenated transport streams, whose times start again: a seek would land at a wrong place."""
    path = tmp_path / "twice.ts"
    path.write_bytes(2 * (clips / "x.ts").read_bytes())
    frames = list(open_clip(path).frames(ReadOptions(start_s=6.0)))
    assert [index for index, _, _ in frames] == list(range(150, 240))
    assert frames[0][1] == pytest.approx(6000, abs=0.6)
    assert brightness(frames[0][2]) == pytest.approx(gray(150 - 120), abs=3)


def test_rotation_is_applied(clips: Path, tmp_path: Path) -> None:
    """Guards phone clips, which are stored sideways with a rotation in the track header."""
    data = bytearray((clips / "x.mp4").read_bytes())
    matrix = data.find(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.find(b"tkhd"))
    assert matrix > 0
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    upright = next(open_clip(clips / "x.mp4").frames())[2]
    turned = next(open_clip(path).frames())[2]
    assert turned.shape == (64, 48, 3)
    assert np.array_equal(turned, np.rot90(upright, -1))


@pytest.mark.parametrize("suffix", [".avi", ".mkv"])
def test_a_truncated_clip_gives_its_frames_and_then_an_error(clips: Path, tmp_path: Path, suffix: str) -> None:
    """Guards half-copied files: OpenCV takes their end for the end of the clip."""
    data = (clips / f"x{suffix}").read_bytes()
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data[: int(0.7 * len(data))])
    got, message = read_until_error(open_clip(path))
    assert re.fullmatch(r"is cut short: its header says [\d,]+ bytes, the file has [\d,]+", message)
    assert 40 < len(got) < 110


def test_a_truncated_mp4_is_called_cut_short(clips: Path, tmp_path: Path) -> None:
    """Guards the reason given: an MP4 without its index cannot even be opened."""
    path = tmp_path / "x.mp4"
    path.write_bytes((clips / "x.mp4").read_bytes()[:-2000])
    with pytest.raises(SourceError, match="is cut short"):
        open_clip(path)


class Stops:
    """A capture that gives 60 frames and no more, like a decoder that has lost its position."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.capture = capture
        self.reads = 0

    def grab(self) -> bool:
        self.reads += 1
        return self.reads <= 60 and self.capture.grab()

    def __getattr__(self, name: str) -> object:
        return getattr(self.capture, name)


def test_a_damaged_middle_is_an_error(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards damaged files of the right length, where decoding stops without an error."""
    opened = open_clip(clips / "x.mp4")
    monkeypatch.setattr(opened, "_capture", Stops(opened._capture))
    got, message = read_until_error(opened)
    assert got == list(range(60))
    assert message == "breaks off after frame 59 of 120, at 2.4 s: the file is damaged"


def test_an_edit_list_is_not_taken_for_damage(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards trimmed phone clips: half of the frames are hidden, which the movie header's duration shows."""
    data = bytearray((clips / "x.mp4").read_bytes())
    header = data.find(b"mvhd")
    assert struct.unpack_from(">II", data, header + 16) == (1000, 4800)
    struct.pack_into(">I", data, header + 20, 2400)
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    opened = open_clip(path)
    monkeypatch.setattr(opened, "_capture", Stops(opened._capture))
    assert len(list(opened.frames())) == 60


def test_other_files_are_not_taken_for_clips(tmp_path: Path) -> None:
    """Guards against FFmpeg's willingness to draw text files and to follow playlists."""
    for head in (b"hello world\n" * 30, b"#EXTM3U\n#EXTINF:1,\nhttp://x/y.ts\n", b"ffconcat version 1.0\n", bytes(300)):
        assert clip.sniff(head) is None


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    """Guards media files without a picture."""
    path = tmp_path / "x.avi"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4) + b"AVI " + bytes(100))
    with pytest.raises(SourceError, match="holds no picture"):
        open_clip(path)


def test_the_promised_size_is_read_from_the_header(tmp_path: Path) -> None:
    """Guards the arithmetic of MP4 and Matroska sizes, also of live recordings that leave the size open."""
    mp4 = tmp_path / "x.mp4"
    for tail, promised in (
        (struct.pack(">I4s", 100, b"mdat") + bytes(92), None),
        (struct.pack(">I4s", 101, b"mdat") + bytes(92), 117),
        (struct.pack(">I4sQ", 1, b"mdat", 1 << 33) + bytes(84), 16 + (1 << 33)),
        (struct.pack(">I4s", 0, b"mdat") + bytes(92), None),
        # what some cameras append after the last box
        (
            struct.pack(">I4s", 100, b"mdat") + bytes(92) + b"Insta360 \x01 8db42d694ccc418790edff439fe026bf",
            None,
        ),
    ):
        mp4.write_bytes(struct.pack(">I4s8s", 16, b"ftyp", b"isom\0\0\0\0") + tail)
        message = clip_health.cut_short(mp4, "MP4")
        assert message is None if promised is None else message is not None and f"says {promised:,} bytes" in message
    start = b"\x1a\x45\xdf\xa3\x84" + bytes(4) + b"\x18\x53\x80\x67"
    assert clip_health._matroska_end(start + b"\x01" + (1000).to_bytes(7, "big")) == len(start) + 8 + 1000
    assert clip_health._matroska_end(start + b"\x01" + b"\xff" * 7) == 0
    assert clip_health._matroska_end(start + b"\x8a") == len(start) + 1 + 10
    assert clip_health._matroska_end(start[:7]) == 0


@pytest.mark.data
def test_real_clips_are_read_whole(data_dir: Path) -> None:
    """Guards against false errors on real recordings, one of them with a variable frame rate."""
    for name, frames, last_ms in (
        ("intel_again.mkv", 77, 2534),
        ("intel_bottle-detection.mp4", 1189, 39821),
        ("liveportrait_d0.mp4", 78, 3080),
        ("pyfeat_face_noface.mov", 169, 6360),
    ):
        times = [
            time_ms for _, time_ms, _ in open_clip(data_dir / "samples" / "clips" / name).frames(ReadOptions(every=13))
        ]
        assert len(times) == math.ceil(frames / 13)
        assert times == sorted(times)
        assert times[-1] <= last_ms


@pytest.mark.data
def test_a_part_of_a_real_clip(data_dir: Path) -> None:
    """Guards --start against inexact seeking: times and pictures are those of reading from the beginning."""
    for name in ("liveportrait_d0.mp4", "pyfeat_face_noface.mov"):
        path = data_dir / "samples" / "clips" / name
        late = [frame for frame in open_clip(path).frames(ReadOptions(duration_s=2.6)) if frame[1] >= 2200]
        part = list(open_clip(path).frames(ReadOptions(start_s=2.2, duration_s=0.4)))
        assert [time_ms for _, time_ms, _ in part] == [time_ms for _, time_ms, _ in late]
        assert len(part) > 5
        assert all(np.array_equal(one[2], other[2]) for one, other in zip(part, late, strict=True))


@pytest.mark.data
def test_a_damaged_real_clip_breaks_off(data_dir: Path, tmp_path: Path) -> None:
    """Guards the real case: a decoder that loses its position in H.264 ends like the end of a clip."""
    data = bytearray((data_dir / "samples" / "clips" / "liveportrait_d0.mp4").read_bytes())
    middle, length = len(data) // 2, len(data) // 10
    data[middle : middle + length] = bytes(length)
    path = tmp_path / "x.mp4"
    path.write_bytes(data)
    got, message = read_until_error(open_clip(path))
    assert 20 < len(got) < 60
    assert message.startswith(f"breaks off after frame {got[-1]} of 78")


class Untimed:
    """A capture of a raw stream, whose frames carry no times."""

    def __init__(self, capture: cv2.VideoCapture) -> None:
        self.capture = capture

    def get(self, what: int) -> float:
        return 0.0 if what == cv2.CAP_PROP_POS_MSEC else self.capture.get(what)

    def __getattr__(self, name: str) -> object:
        return getattr(self.capture, name)


def test_a_raw_stream_is_timed_by_its_frame_rate(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards .h264 files: OpenCV reports 0 ms for all frames, but --max-fps and --duration need their times."""
    opened = open_clip(clips / "x.mp4")
    monkeypatch.setattr(opened, "_capture", Untimed(opened._capture))
    assert [time_ms for _, time_ms, _ in opened.frames()] == pytest.approx([40 * index for index in range(120)])
