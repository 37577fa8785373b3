"""The whole job: a plan, Ray Data workers, and a folder of Parquet files from which an interrupted job continues."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from facexp.address import as_utf8, printable, redacted
from facexp.bundle import MANIFEST, Bundle
from facexp.checks import expect_count
from facexp.cores import cores
from facexp.errors import one_line
from facexp.many.parts import is_incomplete, is_part, part_name, remove_rows
from facexp.many.plan import Plan, absolute_name, canonical_name, is_relative
from facexp.many.schema import about, frameless
from facexp.many.stores import NOT_UTF8, READ_ERROR_PREFIX, ManyError, Store
from facexp.many.worker import SHARED_FILES_HINT, Part, Settings, Worker

SUCCESS_FILE = "_SUCCESS"
"""Name of the empty file that marks a finished job, as other tools that write folders of Parquet files leave it."""

_DEFAULTS = Settings()
# size of Ray's object store: only plans and counts pass through it
_OBJECT_STORE_BYTES = 256 << 20
_CLUSTER_HINT = "run the command on one of the cluster's machines, with the cluster's token if it has one"
# how long the head of a cluster may take to accept a connection
_CONNECT_TIMEOUT_S = 10.0


@dataclass(slots=True)
class _Existing:
    """What a folder of results already holds."""

    files: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    """The canonical names (`plan.canonical_name`) of the sources that have rows or need none."""
    unread: set[str] = field(default_factory=set)
    """Those of `done` that could not be read."""
    starts: set[str] = field(default_factory=set)
    """The directories in which the jobs were started that wrote sources with relative names."""
    stale: dict[str, dict[str, str]] = field(default_factory=dict)
    """File name of a part -> those of its sources whose rows are to be removed, because another part has them, too, or
    they are to be tried again: the name as written in the part -> the canonical name."""


class ManyImages:
    """Analyses the pictures that some names stand for into a folder of Parquet files.

    Each file holds all rows of its sources and appears only when it is complete. Its rows are the records of
    `facexp.sinks.records`, in the order of the sources, in the columns of `schema.record_schema`.
    """

    def __init__(
        self, names: Iterable[str], out: str | Path, settings: Settings = _DEFAULTS, *, resume: bool = False
    ) -> None:
        """Find the sources with `plan.Plan.of` and, with `resume`, the results that are already in the folder `out`.

        Raises ManyError if `out` is a file or is not empty (without `resume`), cannot be read, or was written with
        other settings or with relative names from another directory, and for invalid sources or labels; BundleError for
        an invalid bundle.
        """
        options = settings.analyzer
        bundle = Bundle.load(options.bundle)
        try:
            bundle.emotion.head(options.labels)
        except ValueError as error:
            raise ManyError(str(error)) from None
        bundle_at, detector = (path and Path(path).absolute() for path in (options.bundle, options.detector))
        self._settings = replace(settings, analyzer=replace(options, bundle=bundle_at, detector=detector))
        digest = hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
        self._start = str(Path.cwd())
        self._about = settings.about(f"{bundle.name} {bundle.version} {digest[:16]}", self._start)
        store, folder = Store.of(str(out))
        self._out = (store, os.path.abspath(folder) if store.local else folder)  # noqa: PTH100
        # in file names, so that a worker of an interrupted run that is still writing cannot replace this run's files
        self._token = secrets.token_hex(4)
        self._out_name = redacted(str(out))
        existing = self._read_existing(resume)
        self._old_files = existing.files
        self._plan = Plan.of(names, Path(folder) if store.local else None, self._out)
        others = existing.starts - {self._start}
        if others and self._plan.relative:
            raise ManyError(
                f"{self._out_name}: was written from {printable(min(others))}: "
                "start the job there, or give the sources as absolute paths"
            )
        names = self._names()
        # a failed source that is not in this job keeps its row, since this job does not try it again
        known = existing.done.union(names if existing.stale else ())
        self._stale = {
            part: [source for source, name in stale.items() if name in known] for part, stale in existing.stale.items()
        }
        self._todo = [item for item, name in zip(self._plan.items, names, strict=True) if name not in existing.done]
        self._unread = sum(name in existing.unread for name in names)

    @property
    def total(self) -> int:
        """Number of sources."""
        return len(self._plan.items)

    @property
    def left(self) -> int:
        """Number of sources that are still to be analysed."""
        return len(self._todo)

    @property
    def unread(self) -> int:
        """Number of sources that are already done and could not be read."""
        return self._unread

    def run(
        self,
        workers: int | None = None,
        gpus_per_worker: float = 0.0,
        device: str = "auto",
        address: str | None = None,
    ) -> Generator[Part, None, None]:
        """Analyse the sources that are left, and yield each part when it is done. Call it only once.

        workers: number of workers; None: one for each core, or for each share of a GPU if `gpus_per_worker` is above 0.
        device: as for `Analyzer`; "auto" is the CPU if workers have no GPU.
        address: address of a running Ray cluster; None starts Ray on this machine only, unless `ray.init` was called
        before. All machines must reach sources, bundle and `out` under the same names.

        Raises ManyError if the workers cannot work or the results cannot be written, ValueError for workers < 1.
        """
        expect_count("workers", workers, optional=True)
        store, folder = self._out
        try:
            store.filesystem.create_dir(folder, recursive=True)
            self._clear(keep_done=not self._todo)
            for name, sources in self._stale.items():
                remove_rows(store, folder, name, sources)
            if self._todo:
                with _ray(address, workers) as ray:
                    yield from self._run(ray, workers, gpus_per_worker, device)
            # remove the incomplete files of workers that died
            self._clear(keep_done=True)
            with store.filesystem.open_output_stream(f"{folder}/{SUCCESS_FILE}"):
                pass
        except (OSError, pa.ArrowException) as error:
            raise ManyError(f"{store.name(folder)}: the results cannot be written: {one_line(error)}") from None

    def _run(self, ray: Any, workers: int | None, gpus: float, device: str) -> Iterator[Part]:
        kind, share = ("GPU", gpus) if gpus else ("CPU", 1)
        available = ray.cluster_resources().get(kind, 0)
        most = int(available / share)
        if most < 1:
            raise ManyError(f"Ray has {available:g} {kind}s: no worker can have {share:g}")
        workers = most if workers is None else workers
        if device == "auto" and not gpus:
            device = "cpu"
        numbers = [int(found[1]) for name in self._old_files if (found := re.match(r"part-(\d+)-", name))]
        first = 1 + max(numbers, default=-1)
        parts = self._plan.parts(self._todo, workers, first)
        local = any(item.store is None or self._plan.stores[item.store].local for item in self._todo)
        arguments = {
            "settings": self._settings,
            "device": device,
            "stores": self._plan.stores,
            "out": self._out,
            "run": self._token,
            "about": self._about,
            "folder": str(Path.cwd()) if local else None,
        }
        data = ray.data.from_arrow(parts)
        # the command shows its own progress bar
        data.context.enable_progress_bars = False
        # Ray replaces a worker that dies and gives its parts to another, without a limit on the attempts
        answers = data.map_batches(
            Worker,
            fn_constructor_kwargs=arguments,
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
            num_cpus=1,
            num_gpus=gpus or None,
        )
        done, written = 0, dict[str, int]()
        try:
            for table in answers.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for values in table.to_pylist():
                    part = Part(**values)
                    if part.problem is not None:
                        raise ManyError(part.problem)
                    done += part.sources
                    written[part_name(part.number, self._token)] = part.rows
                    yield part
        except ray.exceptions.RayError as error:
            raise ManyError(f"Ray failed: {one_line(error)}") from error
        if done != len(self._todo):
            raise ManyError(f"only {done} of {len(self._todo)} sources are done: --resume continues with the others")
        self._check(written)

    def _check(self, written: dict[str, int]) -> None:
        """Check that the files of this run exist, and remove rows that workers of an earlier run wrote in the meantime.

        Rows of other sources, which another job wrote in the meantime, are kept. `written` is the number of rows of
        each file of this run.
        """
        store, folder = self._out
        late = [name for name in self._expect_files(written) - written.keys() - self._old_files if is_part(name)]
        existing = _Existing(done=set(self._names() if late else ()))
        for name in late:
            try:
                self._add_file(existing, name, again=False)
            # the file is damaged, and will remain so
            except ValueError:
                store.filesystem.delete_file(f"{folder}/{name}")
        if existing.stale:
            # before and after: of two jobs that remove each other's rows, at least one finds its own missing
            self._expect_files(written, counted=True)
            for name, sources in existing.stale.items():
                remove_rows(store, folder, name, sources)
            self._expect_files(written, counted=True)

    def _expect_files(self, written: dict[str, int], *, counted: bool = False) -> set[str]:
        """Return the names in the folder; ManyError if a file of `written` is missing or, if `counted`, lacks rows."""
        store, folder = self._out
        names = {info.base_name for info in store.filesystem.get_file_info(fs.FileSelector(folder))}
        rows = written.items() if counted else ()
        if not written.keys() <= names or any(
            pq.read_metadata(f"{folder}/{name}", filesystem=store.filesystem).num_rows < count for name, count in rows
        ):
            raise ManyError(
                f"{store.name(folder)}: parts or rows are missing: {SHARED_FILES_HINT}, "
                "and only one job at a time may write there"
            )
        return names

    def _names(self) -> list[str]:
        """Return the canonical name of each source."""
        return [canonical_name(as_utf8(item.name(self._plan.stores)), self._start) for item in self._plan.items]

    def _read_existing(self, resume: bool) -> _Existing:
        """Return what is already in the folder of results. Raises ManyError if it cannot be used."""
        (store, folder), out_name = self._out, self._out_name
        existing = _Existing()
        try:
            info = store.filesystem.get_file_info(folder)
            if info.type == fs.FileType.NotFound:
                return existing
            if info.type == fs.FileType.File:
                raise ManyError(f"{out_name}: is a file; the results are a folder of files")
            names = [each.base_name for each in store.filesystem.get_file_info(fs.FileSelector(folder))]
            existing.files = {name for name in names if name.endswith(".parquet") and not name.startswith(".")}
            if names and not resume:
                raise ManyError(f"{out_name}: exists already: continue it with --resume, or give another folder")
        except UnicodeError:
            raise ManyError(f"{printable(out_name)}: cannot be written: {NOT_UTF8}") from None
        except (OSError, pa.ArrowException) as error:
            raise ManyError(f"{out_name}: its content cannot be read: {one_line(error)}") from None
        for name in sorted(existing.files):
            try:
                self._add_file(existing, name)
            # Arrow raises ValueError or OSError for a damaged file
            except (OSError, ValueError, pa.ArrowException) as error:
                raise ManyError(
                    f"{out_name}/{name}: cannot be read ({one_line(error)}); "
                    "if it is damaged, delete it: --resume analyses its sources again"
                ) from None
        return existing

    def _add_file(self, existing: _Existing, name: str, *, again: bool = True) -> None:
        """Add a file of the folder to `existing`; `again`: sources with an error of the disk or store are not done."""
        (store, folder), start = self._out, self._start
        # pq.read_table would take many times as long
        with pq.ParquetFile(f"{folder}/{name}", filesystem=store.filesystem) as file:
            metadata = file.metadata.metadata
            # older versions did not record the directory in which they were started
            file_start = self._expect_same(f"{self._out_name}/{name}", about(metadata)) or start
            table = file.read(["source", "error"])
        names = {
            source: canonical_name(source if file_start == start else absolute_name(source, file_start), start)
            for source in (*table.column("source").to_pylist(), *frameless(metadata))
        }
        failed = table.filter(pc.is_valid(table.column("error")))
        if is_part(name):
            stale = {source for source in table.column("source").to_pylist() if names[source] in existing.done}
            if again:
                transient = failed.filter(pc.match_substring(failed.column("error"), f": {READ_ERROR_PREFIX}: "))
                stale.update(transient.column("source").to_pylist())
            if stale:
                existing.stale[name] = {source: names[source] for source in stale}
        done = names.keys() - existing.stale.get(name, {})
        existing.done.update(names[source] for source in done)
        existing.unread.update(names[source] for source in done.intersection(failed.column("source").to_pylist()))
        if any(is_relative(source) for source in names):
            existing.starts.add(file_start)

    def _expect_same(self, file_name: str, found: str | None) -> str | None:
        """Return the directory in which the job that wrote a file was started; None if it is not recorded.

        `found` is the file's `about` text. Raises ManyError for another program's file and for other settings.
        """
        if found is None:
            raise ManyError(f"{file_name}: was not written by facexp")
        before, now = json.loads(found), json.loads(self._about)
        start = before.pop("start", None)
        del now["start"]
        # 40 and 40.0 are the same setting
        if before != now:
            changed = ", ".join(f"{key} was {before.get(key)}" for key in now if before.get(key) != now[key])
            raise ManyError(f"{file_name}: was written with other settings ({changed})")
        return None if start is None else str(start)

    def _clear(self, keep_done: bool) -> None:
        """Remove incomplete files of dead workers and, unless `keep_done`, the mark of a finished job."""
        store, folder = self._out
        for info in store.filesystem.get_file_info(fs.FileSelector(folder)):
            if is_incomplete(info.base_name) or (info.base_name == SUCCESS_FILE and not keep_done):
                store.filesystem.delete_file(info.path)


@contextlib.contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[Any]:
    """Connect to Ray, or start it, and shut it down at the end if it was not running before.

    Usage statistics are turned off, and Ray prints nothing.
    """
    # Ray reads this on import
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is not None:
        _expect_listener(address)
        # by default Ray tries twenty times, half a minute each, to get an answer from the address
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    sigterm_handler = signal.getsignal(signal.SIGTERM)
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            cpus = max(workers or 1, cores())
            ray.init("local", num_cpus=cpus, object_store_memory=_OBJECT_STORE_BYTES, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    # Ray raises many kinds of exceptions, even a plain Exception
    except Exception as error:
        raise ManyError(_connect_problem(address, error)) from error
    if threading.current_thread() is threading.main_thread():
        # ray.init installs its own handler
        signal.signal(signal.SIGTERM, sigterm_handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _expect_listener(address: str) -> None:
    """Raise ManyError for a ray:// address or if nothing listens at HOST:PORT; others ("auto") are left to Ray."""
    if address.startswith("ray://"):
        raise ManyError(
            f"{address}: Ray Data does not run through Ray's client; give HOST:PORT of the head: {_CLUSTER_HINT}"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_TIMEOUT_S).close()
        except (OSError, OverflowError) as error:
            raise ManyError(f"Ray cannot be reached at {address}: {one_line(error)}") from None


def _connect_problem(address: str | None, error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        # Ray stores the command line and the current directory of the process that starts the job
        place = "on the command line or as current directory"
        return f"Ray takes no name {place} that is not valid UTF-8: give a folder above it, or a list (@names.txt)"
    if address is None:
        return f"Ray cannot be started on this machine: {one_line(error)}"
    # the text of the cause is a traceback, whose last line is the reason
    last_line = str(error.__cause__ or error).strip().rpartition("\n")[2]
    return f"Ray cannot be reached at {address}: {last_line[:200]} ({_CLUSTER_HINT})"
