"""What runs in each process: an analyzer that takes parts of the plan and writes their rows, a file for each part."""

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
from facexp.many.content import open_items
from facexp.many.parts import part_name, whole_file
from facexp.many.plan import Item, items
from facexp.many.schema import file_schema, to_table, with_frameless
from facexp.many.stores import Store
from facexp.many.tries import Tries
from facexp.pipeline import analyze_sources
from facexp.reading import DEFAULTS, ReadOptions
from facexp.shots import Source
from facexp.sinks import frame_record
from facexp.tracking import SMOOTH_S, Tracker
from facexp.types import Frame

# a record of two faces takes 22 kB on its way into the table
_ROWS = 2000

SHARED = "files must lie on a disk that all machines share, or in an object store"


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides about the rows: as for `Analyzer` and `analyze_sources`."""

    analyzer: AnalyzerOptions = field(default_factory=AnalyzerOptions)
    """Device and threads are not taken from here: they are the workers' own."""
    face_crops: bool = False
    options: ReadOptions = DEFAULTS
    detect_every: int | None = None
    smooth: float = SMOOTH_S

    def about(self, models: str, start: str) -> str:
        """The settings and the models as a JSON text, which stands in each file and must be the same in all of them.

        But for `start`, the directory where the job was started, at which relative names begin.
        """
        values = asdict(self)
        how = values.pop("analyzer")
        for elsewhere in ("device", "threads", "bundle"):
            del how[elsewhere]
        if how["detector"] is not None:
            how["detector"] = Path(how["detector"]).name
        return json.dumps({"models": models, "start": start, **how, **values}, sort_keys=True)


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the job, done."""

    number: int
    sources: int
    """How many sources it had."""
    rows: int
    """How many records were written."""
    faces: int
    errors: list[str]
    """One line for each source that could not be read."""
    notes: list[str]
    """What else there is to say about the sources."""
    worker: str
    """Host and process that did it."""
    start_s: float
    """When it was begun, in seconds since the epoch."""
    end_s: float
    """When its file was there."""
    problem: str | None = None
    """Why this worker cannot work at all; None where it can."""


@dataclass(slots=True)
class _Written:
    """What a part's file holds."""

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
    """Holds one analyzer on one thread, and writes the file of each part that it is given."""

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
        """`out` is the store and the folder in it for the files, `about` the text that they carry.

        `run` is what tells the files of this run from those of others. `folder` is where names on disk start; None
        where the job needs none.
        """
        self._settings, self._stores, self._out, self._run, self._about = settings, stores, out, run, about
        self._analyzer: Analyzer | None = None
        self._problem: str | None = None
        # told with the first part: Ray would start a worker that cannot be made again and again
        try:
            if folder is not None:
                os.chdir(folder)
            analyzer = _analyzer(settings, device)
            # what it refuses would be told of each source
            Tracker(analyzer, detect_every=settings.detect_every, smooth=settings.smooth)
            self._analyzer = analyzer
        except OSError as error:
            self._problem = f"{folder} cannot be reached on {platform.node()} ({error.strerror}): {SHARED}"
        except (FacexpError, ValueError) as error:
            self._problem = str(error)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A table of `plan.ITEMS` -> a table of one row, the fields of Part."""
        part = self._part(batch.column("part")[0].as_py(), items(batch))
        return pa.Table.from_pylist([asdict(part)], _PART)

    def _part(self, number: int, todo: list[Item]) -> Part:
        start, who, problem = time.time(), f"{platform.node()}/{os.getpid()}", self._problem
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
            worker=who,
            start_s=start,
            end_s=time.time(),
            problem=problem,
        )

    def _do(self, analyzer: Analyzer, number: int, todo: list[Item]) -> _Written:
        """Analyse a part and write its file. Raises OSError or ArrowException where it cannot be written."""
        store, folder = self._out
        name = part_name(number, self._run)
        tries = Tries(store, f"{folder}/.{name}-tries")
        for bad, times in Counter(tries.ended).items():
            # rows of a table are read many at once: whichever of them it is, they all end the process
            table = (todo[bad].store, todo[bad].path) if times > 1 else None
            for place, item in enumerate(todo):
                if place == bad or (item.store, item.path) == table:
                    todo[place] = replace(item, problem="ends the process that analyses it")
        with whole_file(store, folder, name) as beside:
            written = self._write(beside, analyzer, todo, tries)
        tries.done()
        return written

    def _write(self, path: str, analyzer: Analyzer, todo: list[Item], tries: Tries) -> _Written:
        """Write the rows of a part, a row group at a time: a clip may have any number of frames."""
        written, waiting = _Written(), list[dict[str, Any]]()
        schema = file_schema(analyzer.labels, self._about)
        with pq.ParquetWriter(path, schema, filesystem=fs.LocalFileSystem(), compression="zstd") as file:
            sources = open_items(todo, self._stores, ahead=not tries.careful)
            for number in range(len(todo)):
                tries.begin(number)
                source = next(sources)
                before = written.rows
                for record in self._records(analyzer, source):
                    written.count(record)
                    waiting.append(record)
                    if len(waiting) == _ROWS:
                        file.write_table(to_table(waiting, analyzer.labels, self._about))
                        waiting.clear()
                if written.rows == before:
                    written.frameless.append(source.name)
            tries.begin(None)
            file.write_table(to_table(waiting, analyzer.labels, self._about))
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
        # whatever a picture does to the libraries, the others must not suffer from it
        except Exception as error:
            reason = f"{source.name}: cannot be analysed ({type(error).__name__}: {one_line(error)})"
            yield frame_record(Frame.unread(source.name, number, reason))


def _analyzer(settings: Settings, device: str) -> Analyzer:
    # the workers are as many as the cores: more threads would only take them from each other
    cv2.setNumThreads(1)
    return replace(settings.analyzer, device=device, threads=1).open()


class _Notes(logging.Handler):
    """What facexp's log says meanwhile."""

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
_PART = pa.schema([(each.name, _TYPES.get(str(each.type), pa.string())) for each in fields(Part)])
