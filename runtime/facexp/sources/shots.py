"""Read one source: the pictures of a photo, clip, camera, stream or pipe, one at a time."""

from __future__ import annotations

import contextlib
import functools
import logging
import stat
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from facexp.address import STDIN, printable
from facexp.errors import SourceError, reason
from facexp.geometry import Image
from facexp.reading import DEFAULTS, Pace, ReadOptions
from facexp.sources import clip, photo
from facexp.sources.capture import Capture, VideoCapture
from facexp.sources.live import live_frames
from facexp.sources.pipe import JpegStream, Pipe, RawStream, Undecoded

_JPEG_STREAMS = (".mjpg", ".mjpeg")
# FFmpeg's default frame rate for files without time stamps
_MJPEG_FPS = 25.0

# a reduced JPEG keeps at least this longest side, in pixels: twice the detector's input, so that almost no face is too
# small for the keypoint network, which would mean decoding the photo again
_REDUCED_LONGEST = 1920

_UNKNOWN = "is not a photo or clip in a format that facexp reads"

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture: a photo, or one frame of a clip, camera or stream."""

    source: str
    """The name of the source as it was given, without the user name and password of an address."""
    save_as: PurePath
    """The path at which to save an annotated copy, relative to the output folder."""
    index: int
    """Number of the frame in its source, from 0; 0 for a photo."""
    time_ms: float
    """Time of the frame in the clip, or since a live source's first frame, in milliseconds; 0 for a photo."""
    image: Image
    """BGR (H, W, 3) uint8."""
    fps: float | None = None
    """Frame rate at which to save these shots as a clip, in frames a second; None for a photo."""
    total: int | None = None
    """Number of frames that the clip's header declares; None for a photo and if the clip does not declare it."""
    shown_ms: float | None = None
    """How long an animation shows this frame, in milliseconds, even if the next frame is skipped; None for other
    sources."""
    captured_s: float | None = None
    """When the frame of a live source arrived, on the clock of `time.monotonic`; None if the source is not live."""
    dropped: int | None = None
    """How many frames of a live source were replaced by newer ones since the last shot; None if it is not live."""
    reduction: int = 1
    """By what factor the image is smaller than the photo; 1 unless `ReadOptions.reduced` allows more."""
    decode: Callable[[int], Image] | None = None
    """Decodes the photo in gray at another reduction (1, 2, 4 or 8); None if `reduction` is 1."""
    full_size: tuple[int, int] | None = None
    """Width and height of the photo in pixels if the image is reduced, else None."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photo or frame in pixels."""
        return self.full_size or (self.image.shape[1], self.image.shape[0])


@dataclass(frozen=True, slots=True)
class Source:
    """One photo, clip, camera or stream that was named or found, not opened yet."""

    name: str
    """The name as it was given, or the folder's name followed by the file's; without user name and password."""
    save_as: PurePath
    """The path at which to save an annotated copy: the given folder's name, then the file's path inside that folder."""
    problem: str | None = None
    """Why the source cannot be opened; None if it can."""
    address: str | None = field(default=None, repr=False)
    """What opens a live source or standard input, which may contain a password; None for a file."""
    data: bytes | None = field(default=None, repr=False)
    """The file's content if it is in memory and not on this machine's disk; None: `name` is the file's path."""

    def shots(self, options: ReadOptions = DEFAULTS) -> Iterator[Shot]:
        """Yield the photo, or the frames of the clip, camera or stream that the options choose.

        Raises SourceError, one line that starts with the name, if the source cannot be read; for a clip that breaks
        off, the frames before the break come first. A live source that stops is opened again, which is logged by the
        logger `facexp`, as are options that leave no frame.
        """
        empty = True
        try:
            with contextlib.closing(self._open(options)) as shots:
                for shot in shots:
                    empty = False
                    yield shot
        except SourceError as error:
            raise SourceError(f"{printable(self.name)}: {error}") from None
        except OSError as error:
            raise SourceError(f"{printable(self.name)}: {reason(error)}") from None
        if empty:
            _logger.warning("%s: no frame to read: reading starts at %g s", printable(self.name), options.start_s)

    def is_photo(self) -> bool:
        """Return whether the file begins like a photo or an animation; False for missing files and live sources."""
        if self.address is not None or self.problem is not None:
            return False
        try:
            head = _beginning(Path(self.name))[0] if self.data is None else self.data
        except (SourceError, OSError):
            return False
        return _photo_kind(head, self.save_as) is not None

    def _open(self, options: ReadOptions) -> Generator[Shot, None, None]:
        if self.problem is not None:
            raise SourceError(self.problem)
        if self.address == STDIN:
            yield from self._stdin(options)
        elif self.address is not None:
            opening = functools.partial(VideoCapture, self.address, options.timeout_s)
            yield from self._live(opening, options)
        elif self.data is not None:
            yield from self._content(self.data, options)
        else:
            with _openable(Path(self.name)) as path:
                yield from self._file(path, options)

    def _file(self, path: Path, options: ReadOptions) -> Iterator[Shot]:
        head, size = _beginning(path)
        if not head:
            raise SourceError("is empty (0 bytes)")
        kind = _photo_kind(head, path)
        if kind is not None:
            if size > photo.MAX_BYTES:
                raise _too_large()
            yield from self._photo(path, kind, options)
            return
        if photo.sniff(head[:64]) == "JPEG":
            with path.open("rb", buffering=0) as file:
                yield from self._pipe(JpegStream(Pipe(file), _MJPEG_FPS), replace(options, policy="all"))
            return
        kind = clip.sniff(head)
        if kind is None:
            raise SourceError(_UNKNOWN)
        video = clip.Clip(path, kind)
        for frame in video.frames(options):
            yield Shot(self.name, self.save_as, *frame, options.taken_fps(video.fps), video.count)

    def _photo(self, path: Path, kind: str, options: ReadOptions) -> Iterator[Shot]:
        pages = photo.pages(path, kind)
        if pages == 1 or kind == "TIFF":
            shot = self._single(path.read_bytes(), kind, options)
            if pages > 1:
                _logger.warning("%s: has %d pages, only the first is read", printable(self.name), pages)
            yield shot
            return
        pace, time_ms, fps = Pace(options), 0.0, options.taken_fps(photo.ANIMATION_FPS)
        for index, (image, duration_ms) in enumerate(photo.animation(path, pages)):
            if time_ms >= 1000 * options.end_s:
                return
            if pace.wants(index, time_ms):
                shown_ms = min(duration_ms, 1000 * options.end_s - time_ms)
                yield Shot(self.name, self.save_as, index, time_ms, image, fps, pages, shown_ms)
            time_ms += duration_ms

    def _content(self, data: bytes, options: ReadOptions) -> Iterator[Shot]:
        kind = _photo_kind(data, self.save_as)
        if kind is not None and _is_still(data, kind):
            yield self._single(data, kind, options)
            return
        # clips and formats with several pages can only be read from a file
        with _temporary(f"content{self.save_as.suffix}", lambda path: path.write_bytes(data)) as path:
            yield from self._file(path, options)

    def _single(self, data: bytes, kind: str, options: ReadOptions) -> Shot:
        """Decode a photo; a large JPEG is decoded at a reduced size if the options allow it."""
        if kind != "JPEG" or not options.reduced:
            return Shot(self.name, self.save_as, 0, 0.0, photo.decode(data, kind))
        reduction, width, height = photo.reductions(data, _REDUCED_LONGEST)
        image = photo.decode(data, kind, reduction)
        if reduction == 1:
            return Shot(self.name, self.save_as, 0, 0.0, image)
        # gray, because only the keypoint and emotion networks read it
        decode = functools.partial(photo.decode_gray, data)
        return Shot(
            self.name, self.save_as, 0, 0.0, image, reduction=reduction, decode=decode, full_size=(width, height)
        )

    def _live(self, open_capture: Callable[[], Capture], options: ReadOptions) -> Iterator[Shot]:
        for frame in live_frames(open_capture, printable(self.name), options, self.address):
            yield Shot(
                self.name,
                self.save_as,
                frame.index,
                frame.time_ms,
                frame.image,
                options.taken_fps(frame.fps),
                captured_s=frame.captured_s,
                dropped=frame.dropped,
            )

    def _stdin(self, options: ReadOptions) -> Iterator[Shot]:
        if sys.stdin is None:
            raise SourceError("standard input is closed: pipe a picture or a stream into it")
        if sys.stdin.isatty():
            raise SourceError("standard input is a terminal: pipe a picture or a stream into it")
        # unbuffered: Python's own buffer would hold frames back, and stay locked by a reading thread that hangs
        with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
            pipe = Pipe(stream)
            if not pipe.reach(1):
                raise SourceError("is empty (0 bytes)")
            if options.raw is not None:
                yield from self._pipe(RawStream(pipe, *options.raw), options)
                return
            pipe.reach(256)
            head = bytes(pipe.ahead[:256])
            kind = photo.sniff(head[:64])
            if kind == "JPEG" or head.lstrip().startswith(b"--"):
                jpegs = JpegStream(pipe)
                data = jpegs.single()
                if data is None:
                    yield from self._pipe(jpegs, options)
                else:
                    yield Shot(self.name, self.save_as, 0, 0.0, photo.decode(data, "JPEG"))
            elif kind is not None:
                yield from self._spooled(pipe, kind, options)
            else:
                what = clip.sniff(head)
                how = "ffmpeg -i FILE -f mjpeg - | facexp-infer -"
                raise SourceError(_UNKNOWN if what is None else f"is a {what} clip: give its file name, or pipe {how}")

    def _pipe(self, capture: JpegStream | RawStream, options: ReadOptions) -> Iterator[Shot]:
        if options.policy == "latest":
            yield from self._live(lambda: capture, options)
            return
        pace, index, fps = Pace(options), 0, options.taken_fps(capture.fps)
        damaged = Undecoded(printable(self.name))
        while capture.grab():
            # the writer of a pipe waits for its reader, so arrival times mean nothing: take a nominal frame rate
            time_ms = 1000 * index / capture.fps
            if time_ms >= 1000 * options.end_s:
                break
            if pace.wants(index, time_ms):
                image = capture.retrieve()
                if image is None:
                    damaged.note(index)
                else:
                    yield Shot(self.name, self.save_as, index, time_ms, image, fps)
            index += 1
        damaged.raise_if_any()

    def _spooled(self, pipe: Pipe, kind: str, options: ReadOptions) -> Iterator[Shot]:
        """Read a photo or animation from a pipe; formats with several pages are spooled to a temporary file first."""
        if pipe.reach(photo.MAX_BYTES + 1):
            raise _too_large()
        if _is_still(pipe.ahead, kind):
            yield self._single(bytes(pipe.ahead), kind, options)
            return
        with _temporary("stdin", lambda path: path.write_bytes(pipe.ahead)) as path:
            yield from self._photo(path, kind, options)


def _beginning(path: Path) -> tuple[bytes, int]:
    """Return the first 256 bytes of a file, and its size in bytes.

    Raises SourceError if it is not a regular file: a named pipe, for example, would give these bytes only once.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise SourceError("is neither a file nor a folder")
    with path.open("rb") as file:
        return file.read(256), status.st_size


def _photo_kind(head: bytes, name: PurePath) -> str | None:
    """Return the format of a photo or animation with these first bytes; None for others and for files of many JPEGs."""
    kind = photo.sniff(head[:64])
    return None if kind == "JPEG" and name.suffix.lower() in _JPEG_STREAMS else kind


def _is_still(data: bytes | bytearray, kind: str) -> bool:
    """Return whether the data certainly holds only one picture; an animated PNG has an acTL chunk before its first."""
    return kind == "JPEG" or (kind == "PNG" and b"acTL" not in data[: data.find(b"IDAT")])


@contextlib.contextmanager
def _openable(path: Path) -> Iterator[Path]:
    """Yield the path, or a temporary link to it if OpenCV cannot open it because its name is not valid UTF-8."""
    try:
        photo.opencv_name(path)
    except SourceError:
        with _temporary(f"link{path.suffix}", lambda link: link.symlink_to(path.absolute())) as link:
            yield link
    else:
        yield path


@contextlib.contextmanager
def _temporary(name: str, write: Callable[[Path], object]) -> Iterator[Path]:
    """Let `write` make a temporary file of this name, removed at the end; SourceError if it cannot be written."""
    # imported here because it is rarely needed and its import takes time
    import tempfile

    with contextlib.ExitStack() as stack:
        try:
            path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="facexp-")), name)
            write(path)
        except OSError as error:
            why = error.strerror or str(error)
            raise SourceError(f"needs a folder for temporary files: {why}; set TMPDIR to one") from error
        yield path


def _too_large() -> SourceError:
    return SourceError(f"is too large: photo files of at most {photo.MAX_BYTES >> 20} MB are read")
