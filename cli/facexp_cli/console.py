"""What a command owes its terminal: whole lines, quiet libraries, an honest exit status, a progress bar."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from facexp.shots import Shot


# Windows has no SIGPIPE; 141 is what every shell shows for a command whose reader has gone
_SIGPIPE = 13
# a terminal that goes says so by SIGHUP, which Windows has not
_ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop(BaseException):
    """Something asked the command to end; like KeyboardInterrupt no `except Exception` holds it up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number
        """The exit status that shells know: 130 for Ctrl-C, 143 for SIGTERM, 129 where the terminal has gone, 141 where
        `| head` has read enough."""


class Signals:
    """Turns SIGINT, SIGTERM and SIGHUP into Stop, but never in the middle of what `whole` protects.

    A slow reader keeps the pipe full, so that a signal often comes while half a line is written. A second signal ends
    even that: the reader may be stuck.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in _ENDING:
            # nohup and a shell's background jobs ignore a signal on purpose
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._held and self._waiting is None:
            self._waiting = number
            return
        raise Stop(number)

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """What happens inside is finished before a signal ends the command."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._waiting is not None:
            raise Stop(self._waiting)


@contextlib.contextmanager
def quiet_libraries(active: bool = True) -> Iterator[None]:
    """Send what C libraries print on stderr to nowhere, while Python's own stderr stays what it is.

    libjpeg, libtiff, FFmpeg and onnxruntime write warnings straight to file descriptor 2, past Python. TensorFlow's
    advice to those who program it goes through Python's logging, and what it says at the interpreter's end comes after
    the block.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        own = active and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        own = False
    if not own:
        yield
        return
    before = sys.stderr
    before.flush()
    real = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    with os.fdopen(real, "w", buffering=1, encoding=before.encoding, errors="backslashreplace") as stderr:
        sys.stderr = stderr
        try:
            yield
        finally:
            sys.stderr = before
            os.dup2(real, 2)


def above_bars(file: TextIO) -> contextlib.AbstractContextManager[None]:
    """What is written inside to a terminal's file stands above a progress bar, where there is one."""
    # the import takes as long as everything else of a command line's own, and most runs draw no bar
    bars = sys.modules.get("tqdm")
    return contextlib.nullcontext() if bars is None else bars.tqdm.external_write_mode(file=file)


def say(kind: str, text: str) -> None:
    """One line on stderr, above a progress bar where there is one."""
    tell(f"{kind}: {text}")


def tell(line: str) -> None:
    """As `say`, of no kind."""
    # whether or not it can be told, the work goes on
    with contextlib.suppress(OSError), above_bars(sys.stderr):
        print(line, file=sys.stderr, flush=True)


class Notes(logging.Handler):
    """Shows facexp's own log as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one line, and under a fault of our own where it was."""
        say("Error" if record.levelno >= logging.ERROR else "Note", record.getMessage())
        if record.exc_info:
            tell(logging.Formatter().formatException(record.exc_info))


@contextlib.contextmanager
def notes(level: int) -> Iterator[None]:
    """Show facexp's log from this level on."""
    logger, handler = logging.getLogger("facexp"), Notes()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


class Output:
    """Standard output: UTF-8, each text out at once and whole, and no traceback when its reader has gone."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._aside = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            encoding = sys.stdout.encoding if self._aside else "utf-8"
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write at once. Raises Stop where the reader has gone, ClickException where it cannot be written."""
        # a bar on the same terminal must step aside
        aside = above_bars(sys.stdout) if self._aside else contextlib.nullcontext()
        try:
            with self._signals.whole(), aside:
                _write_all(text)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                _drop_output()
                raise Stop(_SIGPIPE) from None
            raise unwritten(error) from None

    def flush(self) -> None:
        """Nothing is ever left to flush."""


def unwritten(error: OSError) -> click.ClickException:
    """What to raise where standard output cannot be written."""
    _drop_output()
    return click.ClickException(f"standard output cannot be written: {error.strerror}")


def _drop_output() -> None:
    # what is left in a buffer would fail again when Python ends
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _write_all(text: str) -> None:
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    # past Python's own buffer, which loses the rest of a long text when a signal interrupts it in a full pipe
    left = memoryview(text.encode(sys.stdout.encoding, "backslashreplace"))
    while left:
        written = raw.write(left)
        if written is None:
            # another program has set the terminal to not wait
            select.select([], [raw], [])
        else:
            left = left[written:]


class Progress:
    """A bar over the files, and while a clip runs one over its frames."""

    def __init__(self, files: int | None, shown: bool) -> None:
        self._shown = shown
        self._files: Any = _bar(total=files, unit="file", disable=files == 1) if shown else None
        self._frames: Any = None
        self._clip = ""

    def step(self, source: str, shot: Shot | None) -> None:
        """One more picture is done, or could not be read."""
        if not self._shown:
            return
        if shot is None or shot.fps is None:
            # a clip that breaks off has its file counted when it is closed
            broken = self._frames is not None and shot is None and source == self._clip
            self._end_clip()
            if not broken:
                self._files.update()
            return
        if source != self._clip or self._frames is None or shot.index < self._frames.n:
            self._end_clip()
            self._clip = source
            self._frames = _bar(total=shot.total, unit="frame", desc=shot.save_as.name)
        self._frames.update(shot.index + 1 - self._frames.n)

    def _end_clip(self) -> None:
        if self._frames is not None:
            self._frames.close()
            self._files.update()
            self._frames = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._end_clip()
        if self._files is not None:
            self._files.close()


def _bar(**settings: Any) -> Any:
    from tqdm import tqdm

    return tqdm(file=sys.stderr, leave=False, **settings)
