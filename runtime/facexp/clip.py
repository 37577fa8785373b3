"""One clip file -> its frames, upright and with their own times, in memory that does not grow with its length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from facexp.aspect import pixel_aspect, squared
from facexp.clip_health import ClipFrame, Converted, cut_short, ends_early, interlaced
from facexp.errors import SourceError
from facexp.photo import opencv_name
from facexp.reading import DEFAULTS, Pace, ReadOptions, sane_fps

_SEEK_EARLY_MS = 2000.0
# formats without an index: after a seek OpenCV only guesses where it is, and lands nowhere where two were joined
_UNSOUGHT = ("MPEG-TS", "MPEG", "raw H.264")
# FFmpeg's count where it wrote an AVI without knowing how long it would be
_UNCOUNTED = 2**30
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
            raise SourceError(cut_short(path, kind) or f"is a {kind} file that holds no picture FFmpeg can decode")
        self.fps = sane_fps(self._capture.get(cv2.CAP_PROP_FPS))
        """Frames a second; 30 where the file names no sane rate."""
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.count = int(count) if 0 < count < _UNCOUNTED else None
        """How many frames the file claims; None where it does not say.

        OpenCV's guess, by the length of the longest of pictures, sound and subtitles, where the format does not count.
        """
        self._aspect = pixel_aspect(self._capture)

    def frames(self, options: ReadOptions = DEFAULTS) -> Iterator[ClipFrame]:
        """Each wanted frame; the file is closed at the end.

        The pixels are square: a picture is as wide as players show it. Where reading starts later and the rate varies,
        the number is an estimate; the time is always the clip's own. A clip that breaks off, or is interlaced, gives
        the frames before, then raises SourceError with the reason alone.
        """
        pace, step = Pace(options), 1000 / self.fps
        index, time_ms = self._skip(1000 * options.start_s), 0.0
        first, past_end = index, False
        converted = Converted(self._interlaced)
        try:
            while self._capture.grab():
                stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC)
                # raw streams carry no times: the frame rate takes their place
                time_ms = stamp if stamp > time_ms or index == first else time_ms + step
                past_end = time_ms >= 1000 * options.end_s
                if past_end:
                    break
                if pace.wants(index, time_ms):
                    ok, image = self._capture.retrieve()
                    if not ok:
                        break
                    pixels = squared(np.asarray(image, dtype=np.uint8), self._aspect)
                    yield from converted.passed(ClipFrame(index, time_ms, pixels))
                index += 1
            yield from converted.rest()
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
        """Go to a little before that time, where the format allows it without decoding what lies before.

        Gives the number of the frame that is next.
        """
        target_ms = start_ms - _SEEK_EARLY_MS
        if target_ms <= 0 or self._kind in _UNSOUGHT:
            return 0
        # seeking goes by an even rate, and may land late where the rate varies; then all is read from the beginning
        if self._capture.set(cv2.CAP_PROP_POS_MSEC, target_ms) and self._capture.grab():
            index = round(self._capture.get(cv2.CAP_PROP_POS_FRAMES))
            if index > 0 and self._capture.get(cv2.CAP_PROP_POS_MSEC) < start_ms:
                return index
        self._capture.release()
        self._capture = _capture(self._path)
        return 0

    def _interlaced(self, frame: ClipFrame) -> bool:
        """Whether this frame, or one before it, is interlaced, as FFmpeg says."""
        start_ms = frame.time_ms - _SEEK_EARLY_MS
        if start_ms <= 0 or self._kind in _UNSOUGHT:
            return interlaced(self._path, 0.0, frame.number + 1)
        # a second more, because seeking may land early
        return interlaced(self._path, start_ms, round(self.fps * (1 + _SEEK_EARLY_MS / 1000)))


def _capture(path: Path) -> cv2.VideoCapture:
    return cv2.VideoCapture(opencv_name(path), cv2.CAP_FFMPEG)
