"""What is wrong with a clip where OpenCV does not tell: it is cut short, breaks off or is interlaced."""

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
from facexp.photo import opencv_name

_BOXES = frozenset(
    b"ftyp moov mdat moof mfra sidx ssix styp emsg prft free skip wide uuid meta pdin udta pnot imda".split()
)
# formats whose header counts the pictures
_COUNTED = ("MP4", "AVI", "IVF")
# what writers put for a size that they do not know yet, into a file that they cannot go back in
_OPEN = 0xFFFFFFFF
# every so many rows of a picture one is compared: single pixels of all rows would take far longer to fetch
_APART = 64
_PATIENCE_S = 60.0
_COPY = "read the copy that ffmpeg -i FILE -vf yadif COPY.mp4 makes"
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
    """Of those in the clip, from 0."""
    time_ms: float
    image: Image
    """BGR (H, W, 3) uint8."""


class _Picture(Protocol):
    @property
    def image(self) -> Image: ...


_Frame = TypeVar("_Frame", bound=_Picture)


class InterlacedError(SourceError):
    """The pictures of a clip or stream are interlaced: no other attempt reads them."""


class Converted(Generic[_Frame]):
    """Lets the frames of a clip or stream through as soon as they are known to be pictures.

    FFmpeg refuses to convert an interlaced one, and OpenCV then gives what its buffer held, as if nothing were wrong:
    the picture before or, in place of the first, just anything. So the first frame waits for the next, and where two
    that follow each other look alike, `interlaced` is asked about the second; only once, because a still clip, as of a
    screen, is alike all the time. A sample of the rows is enough where somebody is asked.
    """

    def __init__(self, interlaced: Callable[[_Frame], bool], instead: str = _COPY) -> None:
        """`instead` says what to read in its place."""
        self._interlaced: Callable[[_Frame], bool] | None = interlaced
        self._instead = instead
        self._held: _Frame | None = None
        self._sample: bytes | None = None

    @property
    def waits(self) -> bool:
        """Whether the first frame waits for the next."""
        return self._held is not None

    def passed(self, frame: _Frame) -> Iterator[_Frame]:
        """The frames that may go now that this one has come. Raises SourceError, with the reason alone."""
        if self._interlaced is None:
            yield frame
            return
        before, self._sample = self._sample, frame.image[::_APART].tobytes()
        if before is None:
            self._held = frame
            return
        if before == self._sample:
            self._ask(frame)
        yield from self._given_back()
        yield frame

    def rest(self) -> Iterator[_Frame]:
        """The first frame, where no other has come. Raises SourceError, with the reason alone."""
        if self._held is not None:
            self._ask(self._held)
        yield from self._given_back()

    def _given_back(self) -> Iterator[_Frame]:
        if self._held is not None:
            yield self._held
            # it waits until it is taken
            self._held = None

    def _ask(self, frame: _Frame) -> None:
        assert self._interlaced is not None
        if self._interlaced(frame):
            raise InterlacedError(f"is interlaced, which OpenCV cannot convert: {self._instead}")
        self._interlaced = None


def interlaced(source: Path | str, start_ms: float, frames: int, patience_s: float = math.inf) -> bool:
    """Whether FFmpeg refuses to convert one of so many frames from that time on, or from the beginning where it is 0.

    The source is a file or the address of a stream; False, too, where that cannot be told in `patience_s`.

    Only its log says so, which OpenCV writes to the output of the process: so it is another process that reads them.
    """
    # hardly ever needed, and its import is not for free
    import subprocess

    name = source if isinstance(source, str) else opencv_name(source)
    command = [sys.executable, "-P", "-c", _PROBE, str(start_ms), str(frames)]
    environment = os.environ | {"OPENCV_FFMPEG_LOGLEVEL": "16"}
    try:
        done = subprocess.run(
            command,
            # not in the command, which everybody on the machine can see: an address may hold a password
            input=name.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            timeout=min(patience_s, _PATIENCE_S),
        )
    except (OSError, subprocess.TimeoutExpired):
        # an interlaced clip mostly is so from its first frame on, where this is a matter of a moment: it is a still one
        return False
    return b"convert interlaced" in done.stdout


def ends_early(path: Path, kind: str, count: int | None, fps: float, frames: int, end_ms: float) -> str | None:
    """The reason if decoding stopped well before the end that the file claims: the decoder itself does not tell.

    Only a header that counts the pictures is believed: elsewhere OpenCV makes the count of the length of the file,
    which is that of its sound and subtitles too. And both the number of frames and the time must fall short by a tenth:
    an edit list hides frames and a varying rate makes the time a guess, but each of these spoils only one of the two.
    """
    if frames == 0:
        return "holds no picture that can be decoded"
    if kind not in _COUNTED or count is None or frames >= 0.9 * count:
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
    """The reason if the file is shorter than its own header promises, None if not or if the header does not say."""
    size = path.stat().st_size
    promised = 0
    with path.open("rb") as file:
        try:
            if kind == "MP4":
                promised = max((end for _, _, end in _mp4_boxes(file, size)), default=0)
            elif kind == "AVI":
                (length,) = struct.unpack("<I", file.read(8)[4:])
                promised = 0 if length == _OPEN else 8 + length
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
            if len(head) < 16:
                return
            (length,) = struct.unpack_from(">Q", head, 8)
            start += 8
        # 0 means "to the end of the file"
        end = position + length if length else size
        if end < start or kind not in _BOXES:
            return
        yield kind, start, end
        position = end


def _in_fragments(path: Path) -> bool:
    """Whether an MP4 was written piece by piece, as when it is piped: nobody has counted its pictures then."""
    with path.open("rb") as file:
        return any(kind == b"moof" for kind, _, _ in _mp4_boxes(file, path.stat().st_size))


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
