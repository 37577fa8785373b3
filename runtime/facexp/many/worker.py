"""The worker process: an analyzer that processes parts of the plan and writes one file of rows for each."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from facexp.analyzer import Analyzer, AnalyzerOptions
from facexp.errors import FacexpError, one_line
from facexp.many.attempts import Attempts
from facexp.many.content import open_items
from facexp.many.parts import atomic_file, part_name
from facexp.many.plan import Item, items
from facexp.many.schema import file_schema, with_frameless
from facexp.many.stores import Store
from facexp.pipeline import analyze_sources
from facexp.reading import DEFAULTS, ReadOptions
from facexp.sinks.records import frame_record
from facexp.sources.shots import Source
from facexp.tracking import SMOOTH_S, Tracker
from facexp.types import Frame

# rows in one row group: before it is in the table, a record of two faces takes 22 kB of memory
_ROW_GROUP_ROWS = 2000

SHARED_FILES_HINT = "files must be on a disk that all machines share, or in an object store"
"""Part of error messages: how all machines can reach the files."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that determine the rows, as for `Analyzer` and `analyze_sources`."""

    analyzer: AnalyzerOptions = field(default_factory=AnalyzerOptions)
    """Its device and threads are ignored: the job sets those of each worker."""
    face_crops: bool = False
    options: ReadOptions = DEFAULTS
    detect_every: int | None = None
    smooth: float = SMOOTH_S

    def about(self, models: str, start: str) -> str:
        """Return the settings and the models as a JSON text, which is stored in each file of results.

        All files of a folder must have the same text, except for `start`, the directory where the job was started, to
        which relative names refer.
        """
        values = asdict(self)
        options = values.pop("analyzer")
        for ignored in ("device", "threads", "bundle"):
            del options[ignored]
        if options["detector"] is not None:
            options["detector"] = Path(options["detector"]).name
        # numbers of numpy are accepted, too
        return json.dumps({"models": models, "start": start, **options, **values}, sort_keys=True, default=float)


@dataclass(frozen=True, slots=True)
class Part:
    """The summary of one part of the job that is done."""

    number: int
    """Number of the part in the job."""
    sources: int
    """Number of sources."""
    rows: int
    """Number of records written."""
    faces: int
    """Number of faces found."""
    errors: list[str]
    """One line for each source that could not be read."""
    notes: list[str]
    """Warnings that facexp logged meanwhile."""
    worker: str
    """Host name and process id of the worker, joined by /."""
    start_s: float
    """When work on the part began, in seconds since the epoch."""
    end_s: float
    """When its file was complete, in seconds since the epoch."""
    problem: str | None = None
    """Why this worker cannot work at all; None if it can."""


@dataclass(slots=True)
class _Written:
    """The content of a part's file."""

    rows: int = 0
    faces: int = 0
    errors: list[str] = field(default_factory=list)
    frameless: list[str] = field(default_factory=list)
    """The sources without a row."""

    def count(self, record: dict[str, Any]) -> None:
        self.rows += 1
        self.faces += len(record.get("faces", ()))
        if "error" in record:
            self.errors.append(record["error"])


class Worker:
    """Holds one analyzer on one thread, and analyses parts and writes their files."""

    def __init__(
        self,
        settings: Settings,
        device: str,
        stores: list[Store],
        out: tuple[Store, str],
        run: str,
        about: str,
        folder: str | None,
    ) -> None:
        """Load the networks, and keep any problem to report it with the first part.

        `out` is the store and the folder in it for the files, `about` the text stored in them, and `run` the token in
        their names that distinguishes this run from others. `folder` is the directory to which relative names on disk
        refer; None if the job needs none.
        """
        self._settings, self._stores, self._out, self._run, self._about = settings, stores, out, run, about
        self._analyzer: Analyzer | None = None
        self._problem: str | None = None
        # kept for the first part instead of raised, because Ray would try again and again to start the worker
        try:
            if folder is not None:
                os.chdir(folder)
            analyzer = _analyzer(settings, device)
            # raises ValueError for invalid settings here, not for each source
            Tracker(analyzer, detect_every=settings.detect_every, smooth=settings.smooth)
            self._analyzer = analyzer
        except OSError as error:
            self._problem = f"{folder} cannot be reached on {platform.node()} ({error.strerror}): {SHARED_FILES_HINT}"
        except (FacexpError, ValueError) as error:
            self._problem = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Process a part, a table with `plan.ITEM_SCHEMA`; return a table of one row, the fields of `Part`."""
        part = self._part(batch.column("part")[0].as_py(), items(batch))
        return pa.Table.from_pylist([asdict(part)], _PART_SCHEMA)

    def _part(self, number: int, todo: list[Item]) -> Part:
        start, worker, problem = time.time(), f"{platform.node()}/{os.getpid()}", self._problem
        written = _Written()
        with _Notes() as notes:
            if self._analyzer is not None:
                try:
                    written = self._do(self._analyzer, number, todo)
                except (OSError, pa.ArrowException) as error:
                    store, folder = self._out
                    problem = f"{store.name(folder)}: the results cannot be written: {one_line(error)}"
        return Part(
            number=number,
            sources=len(todo),
            rows=written.rows,
            faces=written.faces,
            errors=written.errors,
            notes=notes.lines,
            worker=worker,
            start_s=start,
            end_s=time.time(),
            problem=problem,
        )

    def _do(self, analyzer: Analyzer, number: int, todo: list[Item]) -> _Written:
        """Analyse a part and write its file. Raises OSError or ArrowException if it cannot be written."""
        store, folder = self._out
        name = part_name(number, self._run)
        attempts = Attempts(store, f"{folder}/.{name}-tries")
        for bad, times in Counter(attempts.crashes).items():
            # many rows of a table are read at once, so the one that crashes the process is unknown: give up the table
            table = (todo[bad].store, todo[bad].path) if times > 1 else None
            for index, item in enumerate(todo):
                if index == bad or (item.store, item.path) == table:
                    todo[index] = replace(item, problem="crashes the process that analyses it")
        with atomic_file(store, folder, name) as path:
            written = self._write(path, analyzer, todo, attempts)
        attempts.done()
        return written

    def _write(self, path: str, analyzer: Analyzer, todo: list[Item], attempts: Attempts) -> _Written:
        """Write the rows of a part to a local file, a row group at a time, because a clip may have very many frames."""
        written, records = _Written(), list[dict[str, Any]]()
        schema = file_schema(analyzer.labels, self._about)
        with pq.ParquetWriter(path, schema, filesystem=fs.LocalFileSystem(), compression="zstd") as file:
            sources = open_items(todo, self._stores, ahead=not attempts.careful)
            for number in range(len(todo)):
                attempts.begin(number)
                source = next(sources)
                before = written.rows
                for record in self._records(analyzer, source):
                    written.count(record)
                    records.append(record)
                    if len(records) == _ROW_GROUP_ROWS:
                        file.write_table(pa.Table.from_pylist(records, schema))
                        records.clear()
                if written.rows == before:
                    written.frameless.append(source.name)
            attempts.begin(None)
            file.write_table(pa.Table.from_pylist(records, schema))
            file.add_key_value_metadata(with_frameless(written.frameless))
        return written

    def _records(self, analyzer: Analyzer, source: Source) -> Iterator[dict[str, Any]]:
        settings, number = self._settings, 0
        try:
            for frame, _ in analyze_sources(
                analyzer,
                [source],
                settings.options,
                settings.face_crops,
                detect_every=settings.detect_every,
                smooth=settings.smooth,
                readers=0,
            ):
                yield frame_record(frame)
                number = frame.index + 1
        # whatever error a picture causes, the other pictures must still be analysed
        except Exception as error:
            reason = f"{source.name}: cannot be analysed ({type(error).__name__}: {one_line(error)})"
            yield frame_record(Frame.unread(source.name, number, reason))


def _analyzer(settings: Settings, device: str) -> Analyzer:
    # there is one worker for each core, so more threads would only compete for the cores
    cv2.setNumThreads(1)
    return replace(settings.analyzer, device=device, threads=1).open()


class _Notes(logging.Handler):
    """Collects the warnings that the logger `facexp` emits."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __enter__(self) -> _Notes:
        logging.getLogger("facexp").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("facexp").removeHandler(self)


_TYPES = {"int": pa.int64(), "float": pa.float64(), "list[str]": pa.list_(pa.string())}
_PART_SCHEMA = pa.schema([(each.name, _TYPES.get(str(each.type), pa.string())) for each in fields(Part)])
