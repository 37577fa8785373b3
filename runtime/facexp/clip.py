"""One clip file -> its frames, upright and with their own times, in memory that does not grow with its length."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np

from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.photo import opencv_name
from facexp.reading import DEFAULTS, Pace, ReadOptions, sane_fps

_SEEK_EARLY_MS = 2000.0
_BOXES = frozenset(
    b"ftyp moov mdat moof mfra sidx ssix styp emsg prft free skip wide uuid meta pdin udta pnot imda".split()
)
_STARTS = {
    b"\x1a\x45\xdf\xa3": "Matroska",
    b"FLV\x01": "FLV",
    b"\x30\x26\xb2\x75": "ASF",
    b"\0\0\x01\xba": "MPEG",
    b"\0\0\x01\xb3": "MPEG",
    b"\0\0\0\x01": "raw H.264",
    b"OggS": "Ogg",
    b"YUV4MPEG2": "Y4M",
    b"DKIF": "IVF",
}


def sniff(head: bytes) -> str | None:
    """The clip format that a file's first bytes (200 are enough) announce, or None.

    FFmpeg alone would open far more: it draws text files as pictures and follows play lists.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "MP4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if (head[:1] == b"G" and head[188:189] == b"G") or (head[4:5] == b"G" and head[196:197] == b"G"):
        return "MPEG-TS"
    return next((kind for start, kind in _STARTS.items() if head.startswith(start)), None)


class Clip:
    """An open clip. Raises SourceError, with the reason alone, where it cannot be opened."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._capture = _capture(path)
        if not self._capture.isOpened():
            raise SourceError(_cut_short(path, kind) or f"is a {kind} file that holds no picture FFmpeg can decode")
        self.fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        """Frames a second; 30 where the file names no sane rate."""
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < 2**31 else None
        """How many frames the file claims; None where it does not say."""

    def frames(self, options: ReadOptions = DEFAULTS) -> Iterator[tuple[int, float, Image]]:
        """Number, time in ms and BGR (H, W, 3) uint8 pixels of each wanted frame; the file is closed at the end.

        Where reading starts later and the rate varies, the number is an estimate; the time is always the clip's own.
        A clip that breaks off gives the frames before, then raises SourceError with the reason alone.
        """
        pace, step = Pace(options), 1000 / self.fps
        index, time_ms = self._skip(1000 * options.start_s), 0.0
        first = index
        try:
            while self._capture.grab():
                stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                # raw streams carry no times: the frame rate takes their place
                time_ms = stamp if stamp > time_ms or index == first else time_ms + step
                if time_ms >= 1000 * options.end_s:
                    return
                if pace.wants(index, time_ms):
                    ok, image = self._capture.retrieve()
                    if not ok:
                        break
                    yield index, time_ms, np.asarray(image, dtype=np.uint8)
                index += 1
        finally:
            self._capture.release()
        reason = _cut_short(self._path, self._kind) or self._ends_early(index, time_ms + step)
        if reason:
            raise SourceError(reason)

    def _skip(self, start_ms: float) -> int:
        """Go to a little before that time, without decoding what lies before; the number of the frame that is next."""
        target_ms = start_ms - _SEEK_EARLY_MS
        if target_ms <= 0:
            return 0
        # seeking goes by an even rate, and may land late where the rate varies; then all is read from the beginning
        if self._capture.set(cv2.CAP_PROP_POS_MSEC, target_ms) and self._capture.grab():
            index = round(self._capture.get(cv2.CAP_PROP_POS_FRAMES))
            if index > 0 and self._capture.get(cv2.CAP_PROP_POS_MSEC) < start_ms:
                return index
        self._capture.release()
        self._capture = _capture(self._path)
        return 0

    def _ends_early(self, frames: int, end_ms: float) -> str | None:
        """Whether decoding stopped well before the end that the file claims: the decoder itself does not tell.

        Both the number of frames and the time must fall short by a tenth. An edit list hides frames, sound may outlast
        the picture and a varying rate makes the number a guess, but each of these spoils only one of the two.
        """
        if frames == 0:
            return "holds no picture that can be decoded"
        if self.count is None or frames >= 0.9 * self.count:
            return None
        duration_ms = self.count / self.fps * 1000
        if self._kind == "MP4":
            duration_ms = _mp4_duration_ms(self._path) or duration_ms
        if end_ms >= 0.9 * duration_ms:
            return None
        return f"breaks off after frame {frames - 1} of {self.count}, at {end_ms / 1000:.1f} s: the file is damaged"


def _capture(path: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(opencv_name(path), cv2.CAP_FFMPEG)


def _cut_short(path: Path, kind: str) -> str | None:
    """The reason if the file is shorter than its own header promises, None if not or if the header does not say."""
    size = path.stat().st_size
    promised = 0
    with path.open("rb") as file:
        try:
            if kind == "MP4":
                promised = max((end for _, _, end in _mp4_boxes(file, size)), default=0)
            elif kind == "AVI":
                promised = 8 + struct.unpack("<I", file.read(8)[4:])[0]
            elif kind == "Matroska":
                promised = _matroska_end(file.read(4096))
        except struct.error:
            return None
    return f"is cut short: its header promises {promised:,} bytes, {size:,} are there" if promised > size else None


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start of the content and end of each top-level box; what some cameras put behind the last one is none."""
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", head, 8)
            start += 8
        # 0 means "to the end of the file"
        end = position + length if length else size
        if end < start or kind not in _BOXES:
            return
        yield kind, start, end
        position = end


def _mp4_duration_ms(path: Path) -> float | None:
    """The length of the presentation in ms, edit lists applied, as the movie header gives it."""
    with path.open("rb") as file:
        for kind, start, _ in _mp4_boxes(file, path.stat().st_size):
            if kind != b"moov":
                continue
            file.seek(start)
            head = file.read(64)
            if head[4:8] != b"mvhd":
                return None
            scale, duration = struct.unpack_from(">IQ" if head[8] == 1 else ">II", head, 28 if head[8] == 1 else 20)
            return float(1000 * duration / scale) if scale else None
    return None


def _matroska_end(head: bytes) -> int:
    """Where the segment ends, or 0 where a live recording left its size open."""

    def number(position: int) -> tuple[int | None, int]:
        length = 9 - head[position].bit_length()
        value = int.from_bytes(head[position : position + length], "big") & ((1 << 7 * length) - 1)
        return (None if value == (1 << 7 * length) - 1 else value), position + length

    try:
        skip, position = number(4)
        position += skip or 0
        if head[position : position + 4] != b"\x18\x53\x80\x67":
            return 0
        value, position = number(position + 4)
    except IndexError:
        return 0
    return 0 if value is None else position + value
