"""Names of photos, folders, globs, lists, clips, cameras and streams -> pictures, one at a time.

    for source in open_sources(["holiday", "clips/*.mp4", "@more.txt", "rtsp://camera/live"]):
        for shot in source.shots():
            shot.image          # BGR (H, W, 3) uint8

Only names are kept in memory, of one folder at a time; a clip gives one frame at a time. What a file is, its content
decides; only inside folders and globs do names choose which files are looked at. Files give every frame in order;
cameras and streams give the newest, read by a thread of their own (`facexp.live`).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from facexp import clip, photo
from facexp.address import STDIN, address_problem, file_name, is_live, shown
from facexp.errors import SourceError
from facexp.geometry import Image
from facexp.live import Capture, VideoCapture, live_frames
from facexp.pipe import JpegStream, Pipe, RawStream
from facexp.reading import DEFAULTS, Pace, ReadOptions

# HEIC is not read, but a folder full of it must say so instead of looking empty
MEDIA = re.compile(
    r".+\.(jpe?g|jpe|jfif|a?png|gif|bmp|tiff?|webp|avif|hei[cf]|jp2|p[bgpn]m"
    r"|mp4|m4v|mov|mkv|webm|avi|mpe?g|mts|m2ts|wmv|flv|ogv|3gp|y4m|mjpe?g)",
    re.IGNORECASE,
)
"""The names that are taken for photos and clips inside a folder or glob."""

_JPEG_STREAMS = (".mjpg", ".mjpeg")

_logger = logging.getLogger("facexp")


@dataclass(frozen=True, slots=True, eq=False)
class Shot:
    """One picture: a photo, or one frame of a clip, camera or stream."""

    source: str
    """The name of the source as it was given, without the user name and password of an address."""
    save_as: PurePath
    """Where an annotated copy belongs, relative to the folder it is saved in."""
    index: int
    """Number of the frame in its source, from 0; 0 for a photo."""
    time_ms: float
    """Time of the frame in the clip, or since a live source's first frame, in milliseconds; 0 for a photo."""
    image: Image
    """BGR (H, W, 3) uint8."""
    fps: float | None = None
    """The rate at which these shots are worth saving, in frames a second; None for a photo."""
    total: int | None = None
    """How many frames the clip claims to have; None for a photo and where the clip does not say."""
    captured_s: float | None = None
    """When a live source's frame came, on the clock of `time.monotonic`; None for what is not live."""
    dropped: int | None = None
    """How many frames of a live source newer ones replaced since the last shot; None for what is not live."""
    reduction: int = 1
    """How many times smaller than the photo the image is; 1 unless `ReadOptions.reduced` allows more."""
    decode: Callable[[int], Image] | None = None
    """Gives the photo at another reduction (1, 2, 4 or 8) where this one is above 1, else None."""
    full_size: tuple[int, int] | None = None
    """Width and height of the photo where the image is smaller, else None."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the photo or frame in pixels."""
        return self.full_size or (self.image.shape[1], self.image.shape[0])


@dataclass(frozen=True, slots=True)
class Source:
    """One photo, clip, camera or stream that was named or found, not opened yet."""

    name: str
    """The name as it was given, or the folder's name with the file's name behind it; nothing secret."""
    save_as: PurePath
    """Where an annotated copy belongs: the name inside the given folder, with that folder's name before it."""
    problem: str | None = None
    """Why there is nothing to open; None where there is."""
    address: str | None = field(default=None, repr=False)
    """What a live source or standard input is opened by, which may hold a password; None for a file."""
    data: bytes | None = field(default=None, repr=False)
    """The file's content, where it is already here and not on this machine's disk; None: the name leads to it."""

    def shots(self, options: ReadOptions = DEFAULTS) -> Iterator[Shot]:
        """The photo, or the frames of the clip, camera or stream that the options choose.

        Raises SourceError, its one line starting with the name, where the source cannot be read; a clip that breaks off
        gives the frames before that first. A live source that stops is opened again, which the log `facexp` tells.
        """
        try:
            yield from self._open(options)
        except SourceError as error:
            raise SourceError(f"{printable(self.name)}: {error}") from None
        except OSError as error:
            raise SourceError(f"{printable(self.name)}: {_reason(error)}") from None

    def _open(self, options: ReadOptions) -> Iterator[Shot]:
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
            yield from self._file(Path(self.name), options)

    def _file(self, path: Path, options: ReadOptions) -> Iterator[Shot]:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise SourceError("is neither a file nor a folder")
        with path.open("rb") as file:
            head = file.read(256)
        if not head:
            raise SourceError("is empty (0 bytes)")
        kind = photo.sniff(head[:64])
        if kind is not None and path.suffix.lower() not in _JPEG_STREAMS:
            if facts.st_size > photo.MAX_BYTES:
                raise _too_large()
            yield from self._photo(path, kind, options)
            return
        kind = clip.sniff(head) or kind
        if kind is None:
            raise SourceError(_UNKNOWN)
        frames = clip.Clip(path, kind)
        for index, time_ms, image in frames.frames(options):
            yield Shot(self.name, self.save_as, index, time_ms, image, options.taken_fps(frames.fps), frames.count)

    def _photo(self, path: Path, kind: str, options: ReadOptions) -> Iterator[Shot]:
        pages = photo.pages(path, kind)
        if kind == "JPEG" and options.reduced:
            yield self._reduced(path.read_bytes())
            return
        if pages == 1 or kind == "TIFF":
            image = photo.decode(path.read_bytes(), kind)
            if pages > 1:
                _logger.warning("%s: has %d pages, only the first is read", printable(self.name), pages)
            yield Shot(self.name, self.save_as, 0, 0.0, image)
            return
        pace, time_ms, fps = Pace(options), 0.0, options.taken_fps(photo.ANIMATION_FPS)
        for index, (image, duration_ms) in enumerate(photo.animation(path, pages)):
            if time_ms >= 1000 * options.end_s:
                return
            if pace.wants(index, time_ms):
                yield Shot(self.name, self.save_as, index, time_ms, image, fps, pages)
            time_ms += duration_ms

    def _content(self, data: bytes, options: ReadOptions) -> Iterator[Shot]:
        kind = photo.sniff(data[:64])
        # a PNG that is animated says so before its first picture
        single = kind == "JPEG" or (kind == "PNG" and b"acTL" not in data[: data.find(b"IDAT")])
        if single and self.save_as.suffix.lower() not in _JPEG_STREAMS:
            if kind == "JPEG" and options.reduced:
                yield self._reduced(data)
            else:
                yield Shot(self.name, self.save_as, 0, 0.0, photo.decode(data, str(kind)))
            return
        # clips and what may have pages can only be read from a file
        with _temporary(f"content{self.save_as.suffix}", data) as path:
            yield from self._file(path, options)

    def _reduced(self, data: bytes) -> Shot:
        """A JPEG that is no larger than it has to be."""
        reduction, *stored = photo.reductions(data, _LARGE)
        image = photo.decode(data, "JPEG", reduction)
        if reduction == 1:
            return Shot(self.name, self.save_as, 0, 0.0, image)
        # a side is divided and rounded up: the photo is turned where the stored width does not give the image's
        turned = -(-stored[0] // reduction) != image.shape[1]
        width, height = reversed(stored) if turned else stored
        again = functools.partial(photo.decode, data, "JPEG")
        return Shot(
            self.name, self.save_as, 0, 0.0, image, reduction=reduction, decode=again, full_size=(width, height)
        )

    def _live(self, open_capture: Callable[[], Capture], options: ReadOptions) -> Iterator[Shot]:
        for frame in live_frames(open_capture, printable(self.name), options):
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
        if sys.stdin is None or sys.stdin.isatty():
            raise SourceError("standard input is a terminal: pipe a picture or a stream into it")
        # past Python's own buffer, which would hold frames back and be locked by a thread that hangs
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
                raise SourceError(_UNKNOWN if what is None else f"is a {what} clip: name its file, or pipe {how}")

    def _pipe(self, capture: JpegStream | RawStream, options: ReadOptions) -> Iterator[Shot]:
        if options.policy == "latest":
            yield from self._live(lambda: capture, options)
            return
        pace, index, fps = Pace(options), 0, options.taken_fps(capture.fps)
        while capture.grab():
            # a pipe that waits for its reader tells no time: a nominal rate takes its place
            time_ms = 1000 * index / capture.fps
            if time_ms >= 1000 * options.end_s:
                return
            if pace.wants(index, time_ms):
                image = capture.retrieve()
                if image is None:
                    raise SourceError(f"breaks off in frame {index}: it does not decode")
                yield Shot(self.name, self.save_as, index, time_ms, image, fps)
            index += 1

    def _spooled(self, pipe: Pipe, kind: str, options: ReadOptions) -> Iterator[Shot]:
        """A photo or animation that only a file can be read from."""
        if pipe.reach(photo.MAX_BYTES + 1):
            raise _too_large()
        with _temporary("stdin", pipe.ahead) as path:
            yield from self._photo(path, kind, options)


@contextlib.contextmanager
def _temporary(name: str, data: bytes | bytearray) -> Iterator[Path]:
    """A file of this name and content that is gone in the end."""
    # hardly ever needed, and its import is not for free
    import tempfile

    with tempfile.TemporaryDirectory(prefix="facexp-") as folder:
        path = Path(folder, name)
        path.write_bytes(data)
        yield path


def open_sources(names: Iterable[str], skip: Path | None = None) -> Iterator[Source]:
    """Each photo and clip that the names stand for, in natural order (photo2 before photo10).

    A name is a file, a folder (searched to its depths for photos and clips by suffix, hidden ones left out), a glob
    (`**` searches to the depths), a camera (0, /dev/video0), the address of a stream (rtsp://..., http://...), "-" for
    standard input, or "@list.txt": a text file with such names, as `listed` reads it. Nothing inside the folder `skip`
    is taken from a folder or glob: it is where results are written. A name without anything behind it gives one Source
    whose `problem` says so.
    """
    skip = None if skip is None else skip.resolve()
    for name, trouble in listed(names):
        if trouble is not None:
            yield Source(name, PurePath(Path(name).name), trouble)
            continue
        if name == STDIN or is_live(name):
            yield Source(shown(name), PurePath(file_name(name)), address_problem(name), name)
            continue
        path = Path(name)
        # an empty name would be the current directory
        if name and path.is_dir():
            found, what = _walk(path, PurePath(path.resolve().name), skip, ()), "this folder"
        elif glob.has_magic(name) and not path.exists():
            found, what = _glob(name, skip), "what this pattern matches"
        else:
            problem = None if name and path.exists() else "no such file or folder"
            yield Source(name, PurePath(path.name), problem)
            continue
        empty = True
        for source in found:
            empty = False
            yield source
        if empty:
            yield Source(name, PurePath(path.name), f"no photo or clip in {what}")


def listed(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Each name, or, for "@list.txt", each name in that file; with the reason where a list cannot be read.

    A list is UTF-8 text with one name a line, as it would be given by itself: a relative one starts at the current
    directory. Blank lines and those that start with # are passed over.
    """
    for name in names:
        if not name.startswith("@"):
            yield name, None
            continue
        hint = f"(a file of this name is written ./{name})"
        try:
            with Path(name[1:]).open(encoding="utf-8-sig", errors="surrogateescape") as lines:
                if "\0" in lines.read(1024):
                    yield name, f"is no list: it is not a text {hint}"
                    continue
                lines.seek(0)
                empty = True
                for line in lines:
                    entry = line.strip()
                    if entry and not entry.startswith("#"):
                        yield entry, "a list inside a list is not read" if entry.startswith("@") else None
                        empty = False
                if empty:
                    yield name, "this list names nothing"
        except OSError as error:
            yield name, f"this list cannot be read: {error.strerror} {hint}"


def root(name: str) -> Path:
    """The file or folder that a name stands for; for a glob the folder before its first part with a wildcard."""
    path = Path(name)
    if not glob.has_magic(name) or path.exists():
        return path
    return Path(*path.parts[: next(i for i, part in enumerate(path.parts) if glob.has_magic(part))])


def printable(name: str) -> str:
    """The name as it can be printed on one line: quoted and escaped where it holds control or broken characters."""
    return name if name.isprintable() else ascii(name)


def natural(name: str) -> str:
    """A key that sorts photo2 before photo10, capitals with small letters."""
    # one flat text, because a million keys of nested lists weigh more than the names
    return re.sub(r"\d+", lambda digits: digits[0].zfill(20), name.casefold()) + "\0" + name


def _walk(folder: Path, save_as: PurePath, skip: Path | None, above: tuple[Path, ...]) -> Iterator[Source]:
    real = folder.resolve()
    # a link may lead back to a folder above
    if real == skip or real in above:
        return
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                elif MEDIA.fullmatch(entry.name):
                    files.append(entry.name)
    except OSError as error:
        yield Source(str(folder), save_as, _reason(error))
        return
    for name in sorted(files, key=natural):
        yield Source(str(folder / name), save_as / name)
    for name in sorted(folders, key=natural):
        yield from _walk(folder / name, save_as / name, skip, (*above, real))


def _glob(pattern: str, skip: Path | None) -> Iterator[Source]:
    fixed = root(pattern)
    # pathlib's own glob shows hidden files and refuses absolute patterns
    for name in sorted(glob.iglob(pattern, recursive=True), key=natural):  # noqa: PTH207
        path = Path(name)
        if skip is not None and path.resolve().is_relative_to(skip):
            continue
        save_as = PurePath(*(part for part in path.relative_to(fixed).parts if part != ".."))
        if path.is_dir():
            # a deep pattern names the files inside by itself
            if "**" not in pattern:
                yield from _walk(path, save_as, skip, ())
        elif MEDIA.fullmatch(path.name):
            yield Source(name, save_as)


# twice as much as the detector looks at: so hardly a face is too small for the keypoints, and the photo decoded again
_LARGE = 1920

_UNKNOWN = "is not a photo or clip in a format that facexp reads"


def _too_large() -> SourceError:
    return SourceError(f"is too large: photo files of at most {photo.MAX_BYTES >> 20} MB are read")


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or folder"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read: {error.strerror or error}"
