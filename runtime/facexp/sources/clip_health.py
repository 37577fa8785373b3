"""Detect what OpenCV does not report about a clip: that it is cut short, breaks off or is interlaced."""

from __future__ import annotations

import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Generic, NamedTuple, Protocol, TypeVar

from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.sources.photo import opencv_name

_MP4_BOX_TYPES = frozenset(
    b"ftyp moov mdat moof mfra sidx ssix styp emsg prft free skip wide uuid meta pdin udta pnot imda".split()
)
# formats whose header holds the number of frames
_FORMATS_WITH_COUNT = ("MP4", "AVI", "IVF")
# the size that a writer stores if it does not know the size yet and cannot seek back to correct it
_UNKNOWN_SIZE = 0xFFFFFFFF
# pictures are compared by every N-th row: fetching single pixels of all rows would take far longer
_ROW_STEP = 64
# upper bound in seconds of the time for the process that `interlaced` starts
_PROBE_TIMEOUT_S = 60.0
_ADVICE = "read the copy that ffmpeg -i FILE -vf yadif COPY.mp4 makes"
_PROBE = """
import sys, cv2
capture = cv2.VideoCapture(sys.stdin.buffer.read().decode(), cv2.CAP_FFMPEG)
if float(sys.argv[1]) > 0:
    capture.set(cv2.CAP_PROP_POS_MSEC, float(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    if not capture.grab():
        break
    capture.retrieve()
"""


class ClipFrame(NamedTuple):
    """One frame of a clip."""

    number: int
    """Number of the frame in the clip, from 0."""
    time_ms: float
    """Time of the frame in the clip, in milliseconds."""
    image: Image
    """BGR (H, W, 3) uint8."""


class _Picture(Protocol):
    @property
    def image(self) -> Image: ...


_Frame = TypeVar("_Frame", bound=_Picture)


class InterlacedError(SourceError):
    """The frames of a clip or stream are interlaced: another attempt would fail too."""


class InterlaceFilter(Generic[_Frame]):
    """Passes on the frames of a clip or stream, and stops with an error if they are interlaced.

    FFmpeg refuses to convert an interlaced frame, and OpenCV then returns the old content of its buffer without an
    error: the previous picture or, instead of the first picture, arbitrary data. Therefore the first frame is held back
    until the second arrives, and if two successive frames are equal, `interlaced` is called with the second. It is
    called only once, because in a still clip, such as a screen recording, all frames are equal. Comparing a sample of
    the rows is enough, because `interlaced` decides.
    """

    def __init__(self, interlaced: Callable[[_Frame], bool], advice: str = _ADVICE) -> None:
        """`interlaced` returns whether a frame is interlaced; `advice` is the advice that ends the error message."""
        self._interlaced: Callable[[_Frame], bool] | None = interlaced
        self._advice = advice
        self._held: _Frame | None = None
        self._sample: bytes | None = None

    @property
    def holds_frame(self) -> bool:
        """Whether the first frame is held back until the next arrives."""
        return self._held is not None

    def push(self, frame: _Frame) -> Iterator[_Frame]:
        """Yield the frames that can be passed on now that this one has arrived. Raises InterlacedError."""
        if self._interlaced is None:
            yield frame
            return
        before, self._sample = self._sample, frame.image[::_ROW_STEP].tobytes()
        if before is None:
            self._held = frame
            return
        if before == self._sample:
            self._check(frame)
        yield from self._release_held()
        yield frame

    def flush(self) -> Iterator[_Frame]:
        """Yield the first frame if no other has arrived: call it at the end. Raises InterlacedError."""
        if self._held is not None:
            self._check(self._held)
        yield from self._release_held()

    def _release_held(self) -> Iterator[_Frame]:
        if self._held is not None:
            yield self._held
            # only now, so that `holds_frame` stays true until the caller has taken the frame
            self._held = None

    def _check(self, frame: _Frame) -> None:
        assert self._interlaced is not None
        if self._interlaced(frame):
            raise InterlacedError(f"is interlaced, which OpenCV cannot convert: {self._advice}")
        self._interlaced = None


def interlaced(source: Path | str, start_ms: float, frames: int, patience_s: float = math.inf) -> bool:
    """Whether FFmpeg refuses to convert one of `frames` frames, from `start_ms` on (0: from the beginning).

    The source is a file or the address of a stream. Also False if there is no answer within `patience_s` seconds.

    FFmpeg reports it only in its log, which OpenCV writes to the output of the process: so another process reads the
    frames.
    """
    # imported here because it is rarely needed and takes time
    import subprocess

    name = source if isinstance(source, str) else opencv_name(source)
    command = [sys.executable, "-P", "-c", _PROBE, str(start_ms), str(frames)]
    environment = os.environ | {"OPENCV_FFMPEG_LOGLEVEL": "16"}
    try:
        done = subprocess.run(
            command,
            # not as an argument, which every user of the machine can see: an address may contain a password
            input=name.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=min(patience_s, _PROBE_TIMEOUT_S),
        )
    except (OSError, subprocess.TimeoutExpired):
        # most interlaced clips are so from the first frame, which is found at once: assume a still clip
        return False
    return b"convert interlaced" in done.stdout


def ends_early(path: Path, kind: str, count: int | None, fps: float, frames: int, end_ms: float) -> str | None:
    """Return the reason if decoding stopped well before the end that the file claims, else None.

    The decoder itself does not report this. Only a header with a frame count is trusted: for other formats OpenCV
    computes the count from the duration of the file, which includes sound and subtitles. Both the number of frames and
    the time must fall short by a tenth: an edit list hides frames and a varying rate makes the time a guess, but each
    of these affects only one of the two.
    """
    if frames == 0:
        return "holds no picture that can be decoded"
    if kind not in _FORMATS_WITH_COUNT or count is None or frames >= 0.9 * count:
        return None
    duration_ms = count / fps * 1000
    if kind == "MP4":
        if _in_fragments(path):
            return None
        duration_ms = _mp4_duration_ms(path) or duration_ms
    if end_ms >= 0.9 * duration_ms:
        return None
    return f"breaks off after frame {frames - 1} of {count}, at {end_ms / 1000:.1f} s: the file is damaged"


def cut_short(path: Path, kind: str) -> str | None:
    """Return the reason if the file is shorter than its header says; None if not, or if the header has no size."""
    size = path.stat().st_size
    promised = 0
    with path.open("rb") as file:
        try:
            if kind == "MP4":
                promised = max((end for _, _, end in _mp4_boxes(file, size)), default=0)
            elif kind == "AVI":
                (length,) = struct.unpack("<I", file.read(8)[4:])
                promised = 0 if length == _UNKNOWN_SIZE else 8 + length
            elif kind == "Matroska":
                promised = _matroska_end(file.read(4096))
        except struct.error:
            return None
    return f"is cut short: its header says {promised:,} bytes, the file has {size:,}" if promised > size else None


def _mp4_boxes(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start of the content and end of each top-level box, in bytes.

    Stops before data that are not a known box: some cameras append such data after the last box.
    """
    position = 0
    while position + 8 <= size:
        file.seek(position)
        head = file.read(16)
        length, kind = struct.unpack_from(">I4s", head)
        start = position + 8
        if length == 1:
            if len(head) < 16:
                return
            (length,) = struct.unpack_from(">Q", head, 8)
            start += 8
        # 0 means "to the end of the file"
        end = position + length if length else size
        if end < start or kind not in _MP4_BOX_TYPES:
            return
        yield kind, start, end
        position = end


def _in_fragments(path: Path) -> bool:
    """Whether an MP4 file was written in fragments, as into a pipe: its header then has no total frame count."""
    with path.open("rb") as file:
        return any(kind == b"moof" for kind, _, _ in _mp4_boxes(file, path.stat().st_size))


def _mp4_duration_ms(path: Path) -> float | None:
    """Return the duration in ms that the movie header states, with edit lists applied; None without a header."""
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
    """Return the end of the segment in bytes; 0 if a live recording left its size open, or if there is no segment."""

    def read_vint(position: int) -> tuple[int | None, int]:
        # EBML's variable-size integer; all bits set stand for an unknown size
        length = 9 - head[position].bit_length()
        value = int.from_bytes(head[position : position + length], "big") & ((1 << 7 * length) - 1)
        return (None if value == (1 << 7 * length) - 1 else value), position + length

    try:
        skip, position = read_vint(4)
        position += skip or 0
        if head[position : position + 4] != b"\x18\x53\x80\x67":
            return 0
        value, position = read_vint(position + 4)
    except IndexError:
        return 0
    return 0 if value is None else position + value
