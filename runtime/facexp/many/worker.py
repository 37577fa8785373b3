"""What runs in each process: an analyzer that takes parts of the plan and writes their rows, a file for each part."""

from __future__ import annotations

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import pyarrow as pa
import pyarrow.parquet as pq

from facexp.analyzer import Analyzer, AnalyzerOptions
from facexp.errors import FacexpError, one_line
from facexp.many.content import open_items
from facexp.many.plan import Item, items
from facexp.many.schema import to_table
from facexp.many.stores import Store
from facexp.many.tries import Tries
from facexp.pipeline import analyze_sources
from facexp.reading import DEFAULTS, ReadOptions
from facexp.shots import Source
from facexp.sinks import frame_record
from facexp.tracking import SMOOTH_S
from facexp.types import Frame

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

    def about(self, models: str) -> str:
        """The settings and the models as a JSON text, which stands in each file and must be the same in all of them."""
        values = asdict(self)
        how = values.pop("analyzer")
        for elsewhere in ("device", "threads", "bundle"):
            del how[elsewhere]
        if how["detector"] is not None:
            how["detector"] = Path(how["detector"]).name
        return json.dumps({"models": models, **how, **values}, sort_keys=True)


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
            self._analyzer = _analyzer(settings, device)
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
        records: list[dict[str, Any]] = []
        with _Notes() as notes:
            if self._analyzer is not None:
                try:
                    records = self._do(self._analyzer, number, todo)
                except (OSError, pa.ArrowException) as error:
                    store, folder = self._out
                    problem = f"{store.name(folder)}: the results cannot be written: {one_line(error)}"
        return Part(
            number=number,
            sources=len(todo),
            rows=len(records),
            faces=sum(len(record.get("faces", ())) for record in records),
            errors=[record["error"] for record in records if "error" in record],
            notes=notes.lines,
            worker=who,
            start_s=start,
            end_s=time.time(),
            problem=problem,
        )

    def _do(self, analyzer: Analyzer, number: int, todo: list[Item]) -> list[dict[str, Any]]:
        """Analyse a part and write its file. Raises OSError or ArrowException where it cannot be written."""
        store, folder = self._out
        name = part_name(number, self._run)
        tries = Tries(store, f"{folder}/.{name}-tries")
        for bad in tries.ended:
            todo[bad] = replace(todo[bad], problem="ends the process that analyses it")
        records: list[dict[str, Any]] = []
        for source_number, source in enumerate(open_items(todo, self._stores)):
            tries.begin(source_number)
            records += self._records(analyzer, source)
        table = to_table(records, analyzer.labels, self._about)
        # a worker that dies leaves nothing that looks like results, and who does its part again replaces what is there
        beside = f"{folder}/.{name}-{os.getpid()}" if store.local else f"{folder}/{name}"
        pq.write_table(table, beside, filesystem=store.filesystem, compression="zstd")
        if store.local:
            store.filesystem.move(beside, f"{folder}/{name}")
        tries.done()
        return records

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
            yield frame_record(Frame(source.name, number, 0.0, None, None, None, (), None, reason))


def _analyzer(settings: Settings, device: str) -> Analyzer:
    # the workers are as many as the cores: more threads would only take them from each other
    cv2.setNumThreads(1)
    return replace(settings.analyzer, device=device, threads=1).open()


def part_name(number: int, run: str) -> str:
    """The file of a part; files in the order of their names are rows in the order of the sources."""
    return f"part-{number:06d}-{run}.parquet"


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
