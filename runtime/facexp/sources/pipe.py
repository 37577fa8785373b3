"""Read standard input: one encoded photo, a stream of JPEGs, or raw frames."""

from __future__ import annotations

import logging
import re
import select
from typing import Protocol

import numpy as np

from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import NOMINAL_FPS
from facexp.sources import photo

_logger = logging.getLogger("facexp")

_JPEG_START = b"\xff\xd8\xff"
# inside compressed data 0xff is followed only by a zero, a restart marker's code (0xd0 to 0xd7), or 0xff as a fill byte
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_MAX_GAP_BYTES = 1 << 16
# a clip appended to a photo has its "ftyp" within this many bytes
_TRAILER_BYTES = 256


class Stream(Protocol):
    """An unbuffered binary file, or any object that can be read like one."""

    def read(self, size: int, /) -> bytes | None:
        """Return the bytes available, at most `size`; b"" at the end; None if none are available yet."""

    def fileno(self) -> int:
        """Return the file descriptor, to wait for with `select`."""


class Pipe:
    """The bytes of a stream, with a buffer for looking ahead."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.ahead = bytearray()
        """The bytes that were read but not yet taken."""

    def reach(self, size: int) -> bool:
        """Read until at least `size` bytes are ahead; False if the stream ends before."""
        while len(self.ahead) < size:
            if not self.more():
                return False
        return True

    def more(self) -> bool:
        """Wait until bytes are available and read them; False at the end."""
        while (part := self._stream.read(1 << 18)) is None:
            # another program has made the pipe non-blocking
            select.select([self._stream], [], [])
        self.ahead += part
        return bool(part)

    def take(self, size: int) -> bytes:
        """Remove and return the next `size` bytes, which must be ahead."""
        with memoryview(self.ahead) as view:
            taken = bytes(view[:size])
        del self.ahead[:size]
        return taken


class JpegStream:
    """JPEGs one after another, as `ffmpeg -f mjpeg -` writes them, or each after a header, as web cameras send them.

    A `facexp.sources.capture.Capture`. Raises SourceError, with only the reason as its message, if the stream breaks
    off.
    """

    finite = True
    converts = False

    def __init__(self, pipe: Pipe, fps: float = NOMINAL_FPS) -> None:
        self.fps = fps
        self._pipe = pipe
        self._next: bytes | None = None
        self._grabbed = b""
        self._count = 0

    def single(self) -> bytes | None:
        """Return the photo if the input is one photo, None if it is a stream; call this before the first `grab`."""
        self._next = self._take_jpeg()
        if self._next is None:
            raise SourceError("holds no JPEG")
        # phones append further pictures to the photo, with a directory of them ("MPF") in its header
        return self._next if b"MPF\0" in self._next[: 1 << 16] or not self._is_followed() else None

    def grab(self) -> bool:
        """Wait for the next JPEG; False at the end."""
        data, self._next = self._next or self._take_jpeg(), None
        self._grabbed = data or b""
        return data is not None

    def stamp_ms(self) -> float | None:
        """Return None: a stream of JPEGs has no timestamps."""
        return None

    def retrieve(self) -> Image | None:
        """Return the grabbed JPEG as BGR (H, W, 3) uint8; None if it cannot be decoded."""
        try:
            return photo.decode(self._grabbed, "JPEG")
        except SourceError:
            return None

    def close(self) -> None:
        """Do nothing: standard input stays open."""

    def _is_followed(self) -> bool:
        """Return whether another JPEG follows the first, and not a clip or other data that phones append."""
        self._pipe.reach(_TRAILER_BYTES)
        if b"ftyp" in self._pipe.ahead[:_TRAILER_BYTES]:
            return False
        try:
            return self._skip_to_start()
        except SourceError:
            return False

    def _skip_to_start(self) -> bool:
        """Drop the bytes before the next JPEG; False if none follows."""
        ahead, skipped = self._pipe.ahead, 0
        while (start := ahead.find(_JPEG_START)) < 0:
            # the start marker may be split between two reads
            skipped += max(0, len(ahead) - 2)
            del ahead[:-2]
            if skipped > _MAX_GAP_BYTES:
                what = f"breaks off after frame {self._count - 1}: what follows is not a" if self._count else "holds no"
                raise SourceError(f"{what} JPEG")
            if not self._pipe.more():
                return False
        del ahead[:start]
        return True

    def _take_jpeg(self) -> bytes | None:
        """Take the next complete JPEG; None at the end."""
        if not self._skip_to_start():
            return None
        end = self._find_end()
        self._count += 1
        return self._pipe.take(end)

    def _find_end(self) -> int:
        """Return the length of the JPEG at the start of the bytes ahead."""
        ahead, position = self._pipe.ahead, 2
        while True:
            self._reach(position + 4)
            marker = ahead[position + 1]
            if marker == 0xD9:
                return position + 2
            if ahead[position] != 0xFF or marker == 0xD8:
                # this picture is damaged or cut short: continue with the next one
                return self._find_start(position)
            if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:
                position += 1 if marker == 0xFF else 2
                continue
            position += 2 + int.from_bytes(ahead[position + 2 : position + 4], "big")
            if marker == 0xDA:
                self._reach(position)
                while (found := _MARKER.search(ahead, position)) is None:
                    position = max(position, len(ahead) - 1)
                    self._reach(len(ahead) + 1)
                position = found.start()
                if ahead[position + 1] == 0xD9:
                    return position + 2

    def _find_start(self, position: int) -> int:
        """Return the offset of the next JPEG among the bytes ahead, at `position` or later."""
        ahead = self._pipe.ahead
        while (start := ahead.find(_JPEG_START, position)) < 0:
            position = max(position, len(ahead) - 2)
            self._reach(len(ahead) + 1)
        return start

    def _reach(self, size: int) -> None:
        if size > photo.MAX_BYTES:
            raise SourceError(f"breaks off in frame {self._count}: a JPEG of more than {photo.MAX_BYTES >> 20} MB")
        if not self._pipe.reach(size):
            raise SourceError(f"breaks off in frame {self._count}: its JPEG data end early")


class Undecoded:
    """Counts the damaged frames of a source that were skipped, and reports them as an error at the end."""

    def __init__(self, name: str) -> None:
        """`name` is the name of the source in the log."""
        self._name = name
        self._count, self._first = 0, 0

    def note(self, index: int) -> None:
        """Count the damaged frame with this number, and log the first one: the error at the end may come much later."""
        self._count += 1
        if self._count == 1:
            self._first = index
            _logger.warning("%s: frame %d cannot be decoded and is skipped", self._name, index)

    def raise_if_any(self) -> None:
        """Raise SourceError, with only the reason as its message, if there were any."""
        if self._count:
            what = "1 frame does" if self._count == 1 else f"{self._count} frames do"
            raise SourceError(f"{what} not decode{', first' * (self._count > 1)}: frame {self._first}")


class RawStream:
    """Raw BGR24 frames, as `ffmpeg -f rawvideo -pix_fmt bgr24 -` writes them. A `facexp.sources.capture.Capture`.

    Raises SourceError, with only the reason as its message, if the stream ends inside a frame.
    """

    fps = NOMINAL_FPS
    finite = True
    converts = False

    def __init__(self, pipe: Pipe, width: int, height: int) -> None:
        self._pipe, self._shape = pipe, (height, width, 3)
        self._grabbed = b""
        self._count = 0

    def grab(self) -> bool:
        """Wait for the next frame; False at the end."""
        height, width, channels = self._shape
        size = height * width * channels
        if not self._pipe.reach(size):
            if self._pipe.ahead:
                raise SourceError(
                    f"ends inside frame {self._count}, after {len(self._pipe.ahead):,} of its {size:,} bytes: "
                    f"are the frames really {width}x{height} in BGR24?"
                )
            return False
        self._grabbed = self._pipe.take(size)
        self._count += 1
        return True

    def stamp_ms(self) -> float | None:
        """Return None: raw frames have no timestamps."""
        return None

    def retrieve(self) -> Image:
        """Return the grabbed frame as BGR (H, W, 3) uint8."""
        return np.frombuffer(self._grabbed, np.uint8).reshape(self._shape).copy()

    def close(self) -> None:
        """Do nothing: standard input stays open."""
