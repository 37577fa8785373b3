"""Read one clip file: frames upright and with their own times, in memory that does not grow with the length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from facexp.errors import SourceError
from facexp.reading import DEFAULTS, Pace, ReadOptions, sane_fps
from facexp.sources.aspect import pixel_aspect, squared
from facexp.sources.clip_health import ClipFrame, InterlaceFilter, cut_short, ends_early, interlaced
from facexp.sources.photo import opencv_name

# aim this long before the wanted time, because a seek may land late
_SEEK_EARLY_MS = 2000.0
# formats without an index, in which no seek is tried: OpenCV only guesses its position, and fails in joined files
_NO_SEEK = ("MPEG-TS", "MPEG", "raw H.264")
# the frame count in an AVI file that FFmpeg wrote without knowing the length in advance
_UNKNOWN_COUNT = 2**30
_MAGIC = {
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
    """Return the clip format that a file's first bytes (200 are enough) announce, or None.

    FFmpeg alone would open far more: it renders text files as pictures and follows playlists.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "MP4"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "AVI"
    if (head[:1] == b"G" and head[188:189] == b"G") or (head[4:5] == b"G" and head[196:197] == b"G"):
        return "MPEG-TS"
    return next((kind for start, kind in _MAGIC.items() if head.startswith(start)), None)


class Clip:
    """An open clip file. Raises SourceError, with only the reason as its message, if it cannot be opened."""

    def __init__(self, path: Path, kind: str) -> None:
        self._path, self._kind = path, kind
        self._capture = _capture(path)
        if not self._capture.isOpened():
            raise SourceError(cut_short(path, kind) or f"is a {kind} file that holds no picture FFmpeg can decode")
        self.fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        """Frames per second; 30 if the file has no plausible rate."""
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < _UNKNOWN_COUNT else None
        """Number of frames that the file claims to have; None if unknown.

        For formats without a frame count it is OpenCV's estimate, from the longest of video, sound and subtitles.
        """
        self._aspect = pixel_aspect(self._capture)

    def frames(self, options: ReadOptions = DEFAULTS) -> Iterator[ClipFrame]:
        """Yield each frame that the options choose; the file is closed at the end.

        The pixels are square: a picture is as wide as players show it. If reading starts later in the clip and its rate
        varies, the frame numbers are estimates; the times are always the clip's own. A clip that breaks off, or is
        interlaced, yields the frames before that, then raises SourceError with only the reason as its message.
        """
        pace, step = Pace(options), 1000 / self.fps
        index, time_ms = self._skip(1000 * options.start_s), 0.0
        first, past_end = index, False
        interlace_filter = InterlaceFilter(self._interlaced)
        try:
            while self._capture.grab():
                stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                # raw streams have no time stamps: compute the time from the frame rate
                time_ms = stamp if stamp > time_ms or index == first else time_ms + step
                past_end = time_ms >= 1000 * options.end_s
                if past_end:
                    break
                if pace.wants(index, time_ms):
                    ok, image = self._capture.retrieve()
                    if not ok:
                        break
                    pixels = squared(np.asarray(image, dtype=np.uint8), self._aspect)
                    yield from interlace_filter.push(ClipFrame(index, time_ms, pixels))
                index += 1
            yield from interlace_filter.flush()
        finally:
            self._capture.release()
        if past_end:
            return
        reason = cut_short(self._path, self._kind) or ends_early(
            self._path, self._kind, self.count, self.fps, index, time_ms + step
        )
        if reason:
            raise SourceError(reason)

    def _skip(self, start_ms: float) -> int:
        """Seek to shortly before that time, if the format allows it without decoding everything before.

        Returns the number of the next frame; 0 if reading starts at the beginning.
        """
        target_ms = start_ms - _SEEK_EARLY_MS
        if target_ms <= 0 or self._kind in _NO_SEEK:
            return 0
        # seeking assumes a constant rate and may land late if it varies: then read from the beginning instead
        if self._capture.set(cv2.CAP_PROP_POS_MSEC, target_ms) and self._capture.grab():
            index = round(self._capture.get(cv2.CAP_PROP_POS_FRAMES))
            if index > 0 and self._capture.get(cv2.CAP_PROP_POS_MSEC) < start_ms:
                return index
        self._capture.release()
        self._capture = _capture(self._path)
        return 0

    def _interlaced(self, frame: ClipFrame) -> bool:
        """Whether this frame, or one shortly before it, is interlaced according to FFmpeg."""
        start_ms = frame.time_ms - _SEEK_EARLY_MS
        if start_ms <= 0 or self._kind in _NO_SEEK:
            return interlaced(self._path, 0.0, frame.number + 1)
        # probe one second more than that, because a seek may land early
        return interlaced(self._path, start_ms, round(self.fps * (1 + _SEEK_EARLY_MS / 1000)))


def _capture(path: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(opencv_name(path), cv2.CAP_FFMPEG)
