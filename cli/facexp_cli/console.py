"""Terminal handling of the commands: signals and exit status, output in full lines, quiet libraries, progress bars."""

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
    from facexp.sources.shots import Shot


# a number, since Windows has no signal.SIGPIPE; shells report 141 (128 + 13) for a command whose reader has closed
_SIGPIPE = 13
# a terminal that is closed sends SIGHUP, which Windows does not have
_ENDING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Stop(BaseException):
    """A signal or a closed pipe ends the command; like KeyboardInterrupt it passes through `except Exception`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.status = 128 + number
        """The exit status, by the convention of shells: 130 for Ctrl-C, 143 for SIGTERM, 129 for a closed terminal, 141
        for a closed pipe, such as `| head` that has read enough."""


class Signals:
    """Context manager that turns SIGINT, SIGTERM and SIGHUP into Stop, but not inside a `deferred` block.

    A slow reader keeps the pipe full, so that signals often arrive while half a line is written. A second signal
    interrupts even a `deferred` block, since the reader may be stuck.
    """

    def __init__(self) -> None:
        self._deferring = False
        self._pending: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in _ENDING_SIGNALS:
            # nohup, and shells for background jobs, have set a signal to be ignored on purpose
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._deferring and self._pending is None:
            self._pending = number
            return
        raise Stop(number)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer a signal to the end of the block."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self._pending is not None:
            raise Stop(self._pending)


@contextlib.contextmanager
def quiet_libraries(active: bool = True) -> Iterator[None]:
    """Discard what C libraries print on stderr, while Python's own stderr still works.

    libjpeg, libtiff, FFmpeg and onnxruntime write warnings directly to file descriptor 2, bypassing Python. TensorFlow
    gives hints for developers through Python's logging, and prints some messages at the interpreter's exit, after the
    block: the log level and the environment variable set here silence both.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    try:
        redirects = active and sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):
        redirects = False
    if not redirects:
        yield
        return
    before = sys.stderr
    before.flush()
    real = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 2)
    os.close(devnull)
    sys.stderr = stderr = os.fdopen(real, "w", buffering=1, encoding=before.encoding, errors="backslashreplace")
    try:
        yield
    finally:
        sys.stderr = before
        os.dup2(real, 2)
        # this tries again to write what could not be written, such as to a full disk
        with contextlib.suppress(OSError):
            stderr.close()


def above_bars(file: TextIO) -> contextlib.AbstractContextManager[None]:
    """Return a context in which writes to a terminal appear above a progress bar, if there is one."""
    # not imported here: that takes as long as all other start-up work of the command line, and most runs draw no bar
    bars = sys.modules.get("tqdm")
    return contextlib.nullcontext() if bars is None else bars.tqdm.external_write_mode(file=file)


def stderr_message(kind: str, text: str) -> None:
    """Print `kind: text` as one line on stderr, above a progress bar if there is one."""
    stderr_line(f"{kind}: {text}")


def stderr_line(line: str) -> None:
    """Print one line on stderr, above a progress bar if there is one."""
    # the work continues even if stderr cannot be written
    with contextlib.suppress(OSError), above_bars(sys.stderr):
        print(line, file=sys.stderr, flush=True)


class Notes(logging.Handler):
    """A log handler that prints facexp's log on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print the message as one line, followed by the traceback if the record has one."""
        stderr_message("Error" if record.levelno >= logging.ERROR else "Note", record.getMessage())
        if record.exc_info:
            stderr_line(logging.Formatter().formatException(record.exc_info))


@contextlib.contextmanager
def notes(level: int) -> Iterator[None]:
    """Show facexp's log on stderr inside the block, from this level on."""
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
    """Standard output: UTF-8 unless it is a terminal, unbuffered, without a traceback when its reader has closed."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals
        self._is_terminal = sys.stdout.isatty()
        if isinstance(sys.stdout, io.TextIOWrapper):
            encoding = sys.stdout.encoding if self._is_terminal else "utf-8"
            sys.stdout.reconfigure(encoding=encoding, errors="backslashreplace")

    def write(self, text: str) -> None:
        """Write at once and in full. Raises Stop if the reader has closed, ClickException for any other write error."""
        # the text must appear above a progress bar on the same terminal
        aside = above_bars(sys.stdout) if self._is_terminal else contextlib.nullcontext()
        try:
            with self._signals.deferred(), aside:
                _write_all(text)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                discard_output(sys.stdout)
                raise Stop(_SIGPIPE) from None
            raise unwritten(error) from None

    def flush(self) -> None:
        """Do nothing: `write` leaves nothing buffered."""


def unwritten(error: OSError) -> click.ClickException:
    """Return the exception for standard output that cannot be written, and discard what is still buffered."""
    discard_output(sys.stdout)
    return click.ClickException(f"standard output cannot be written: {error.strerror}")


def discard_output(stream: TextIO) -> None:
    """Discard what is buffered for a stream that cannot be written, or it would cause another error as Python exits."""
    with contextlib.suppress(OSError, ValueError):
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)


def _write_all(text: str) -> None:
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(raw, io.FileIO):
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    # bypasses Python's buffer, which loses the rest of a long text if a signal interrupts a write to a full pipe
    content = memoryview(text.encode(sys.stdout.encoding, "backslashreplace"))
    done = 0
    try:
        while done < len(content):
            written = raw.write(content[done:])
            if written is None:
                # another program has set the terminal to non-blocking mode
                select.select([], [raw], [])
            else:
                done += written
    except OSError:
        _take_back(raw, done)
        raise


def _take_back(file: io.FileIO, count: int) -> None:
    """Remove the last bytes written to a file: the next run may append to it, and would continue half a line."""
    # a pipe has no position, a terminal cannot be cut, and in a file another program may have written since
    with contextlib.suppress(OSError):
        end = file.tell()
        if end == os.fstat(file.fileno()).st_size:
            file.truncate(end - count)


class Progress:
    """A progress bar for the files, and during a clip a second one for its frames."""

    def __init__(self, files: int | None, shown: bool) -> None:
        self._shown = shown
        self._files: Any = _bar(total=files, unit="file", disable=files == 1) if shown else None
        self._frames: Any = None
        self._clip = ""

    def step(self, source: str, shot: Shot | None) -> None:
        """Count a picture that is done; `shot` is None for a source that could not be read."""
        if not self._shown:
            return
        if shot is None or shot.fps is None:
            # if a clip breaks off in the middle, closing its bar counts the file
            broke_off = self._frames is not None and shot is None and source == self._clip
            self._end_clip()
            if not broke_off:
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
