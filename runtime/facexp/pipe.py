"""Standard input: one encoded photo, a stream of JPEGs, or raw frames."""

from __future__ import annotations

import re
import select
from typing import Protocol

import numpy as np

from facexp import photo
from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.reading import NOMINAL_FPS

_START = b"\xff\xd8\xff"
# inside the data of a picture this byte is followed by a zero, by the sign of a restart, or by itself as filling
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_MOST_BETWEEN = 1 << 16
# a clip behind a photo starts within so many bytes, and says ftyp
_TRAILER = 256


class Stream(Protocol):
    """An unbuffered binary file, or anything that reads as one."""

    def read(self, size: int, /) -> bytes | None:
        """What is there, at most `size` bytes; nothing at the end; None where nothing is there yet."""

    def fileno(self) -> int:
        """Its file descriptor, to wait for."""


class Pipe:
    """Bytes of a stream, with a look ahead."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self.ahead = bytearray()
        """What has been read and not been taken."""

    def reach(self, size: int) -> bool:
        """Read until so many bytes are ahead; False where the stream ends before."""
        while len(self.ahead) < size:
            if not self.more():
                return False
        return True

    def more(self) -> bool:
        """Read what is there, as soon as something is; False at the end."""
        while (part := self._stream.read(1 << 18)) is None:
            # another program has set the pipe to not wait
            select.select([self._stream], [], [])
        self.ahead += part
        return bool(part)

    def take(self, size: int) -> bytes:
        """The next so many bytes, which are ahead."""
        with memoryview(self.ahead) as view:
            taken = bytes(view[:size])
        del self.ahead[:size]
        return taken


class JpegStream:
    """JPEGs one after the other, as `ffmpeg -f mjpeg -` writes them, or each with a heading, as web cameras send them.

    A `facexp.capture.Capture`. Raises SourceError, with the reason alone, where the stream breaks off.
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
        """The whole input where it is one photo, and not a stream; to be asked first."""
        self._next = self._cut()
        if self._next is None:
            raise SourceError("holds no JPEG")
        # phones put further pictures behind the photo, and a directory of them into its header
        return self._next if b"MPF\0" in self._next[: 1 << 16] or not self._follows() else None

    def grab(self) -> bool:
        """Wait for the next JPEG; False at the end."""
        data, self._next = self._next or self._cut(), None
        self._grabbed = data or b""
        return data is not None

    def stamp_ms(self) -> float | None:
        """A stream of JPEGs carries no times."""
        return None

    def retrieve(self) -> Image | None:
        """The grabbed JPEG as BGR (H, W, 3) uint8; None where it cannot be decoded."""
        try:
            return photo.decode(self._grabbed, "JPEG")
        except SourceError:
            return None

    def close(self) -> None:
        """Standard input stays open."""

    def _follows(self) -> bool:
        """Whether another JPEG stands behind the first, and not the clip or whatever else phones put there."""
        self._pipe.reach(_TRAILER)
        if b"ftyp" in self._pipe.ahead[:_TRAILER]:
            return False
        try:
            return self._find()
        except SourceError:
            return False

    def _find(self) -> bool:
        """Drop what stands before the next JPEG; False where none follows."""
        ahead, passed = self._pipe.ahead, 0
        while (start := ahead.find(_START)) < 0:
            # the sign may be cut in two
            passed += max(0, len(ahead) - 2)
            del ahead[:-2]
            if passed > _MOST_BETWEEN:
                before = f"breaks off after frame {self._count - 1}: what follows is" if self._count else "holds"
                raise SourceError(f"{before} no JPEG")
            if not self._pipe.more():
                return False
        del ahead[:start]
        return True

    def _cut(self) -> bytes | None:
        """The next whole JPEG; None at the end."""
        if not self._find():
            return None
        end = self._end()
        self._count += 1
        return self._pipe.take(end)

    def _end(self) -> int:
        """Where the JPEG that starts the bytes ahead ends."""
        ahead, position = self._pipe.ahead, 2
        while True:
            self._reach(position + 4)
            marker = ahead[position + 1]
            if marker == 0xD9:
                return position + 2
            if ahead[position] != 0xFF or marker == 0xD8:
                # damaged, or cut short: the next picture is as good as ever
                return self._next_start(position)
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

    def _next_start(self, position: int) -> int:
        """Where the next JPEG starts."""
        ahead = self._pipe.ahead
        while (start := ahead.find(_START, position)) < 0:
            position = max(position, len(ahead) - 2)
            self._reach(len(ahead) + 1)
        return start

    def _reach(self, size: int) -> None:
        if size > photo.MAX_BYTES:
            raise SourceError(f"breaks off in frame {self._count}: a JPEG of more than {photo.MAX_BYTES >> 20} MB")
        if not self._pipe.reach(size):
            raise SourceError(f"breaks off in frame {self._count}: its JPEG data end early")


class Undecoded:
    """Frames that are damaged and passed over, which is an error in the end."""

    def __init__(self) -> None:
        self._count, self._first = 0, 0

    def note(self, index: int) -> bool:
        """One more, of this number; whether it is the first."""
        self._count += 1
        if self._count == 1:
            self._first = index
        return self._count == 1

    def tell(self) -> None:
        """Raise SourceError, with the reason alone, where there were any."""
        if self._count:
            what = "1 frame does" if self._count == 1 else f"{self._count} frames do"
            raise SourceError(f"{what} not decode{', first' * (self._count > 1)}: frame {self._first}")


class RawStream:
    """Raw BGR24 frames, as `ffmpeg -f rawvideo -pix_fmt bgr24 -` writes them. A `facexp.capture.Capture`.

    Raises SourceError, with the reason alone, where the stream ends inside a frame.
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
                    f"ends in frame {self._count}, {len(self._pipe.ahead):,} bytes into the {size:,} of a frame: "
                    f"are these frames of {width}x{height} in BGR24?"
                )
            return False
        self._grabbed = self._pipe.take(size)
        self._count += 1
        return True

    def stamp_ms(self) -> float | None:
        """Raw frames carry no times."""
        return None

    def retrieve(self) -> Image:
        """The grabbed frame, BGR (H, W, 3) uint8."""
        return np.frombuffer(self._grabbed, np.uint8).reshape(self._shape).copy()

    def close(self) -> None:
        """Standard input stays open."""
