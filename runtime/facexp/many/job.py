"""The whole job: plan, workers of Ray Data, and a folder of Parquet files that an interrupted job goes on with."""

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

from facexp.address import as_utf8, printable, shown
from facexp.bundle import MANIFEST, Bundle
from facexp.checks import expect_count
from facexp.cores import cores
from facexp.errors import one_line
from facexp.many.parts import is_begun, is_part, part_name, take_rows
from facexp.many.plan import Plan, is_relative, one_name, whole
from facexp.many.schema import about, frameless
from facexp.many.stores import NOT_UTF8, UNREAD, ManyError, Store
from facexp.many.worker import SHARED, Part, Settings, Worker

DONE = "_SUCCESS"
"""An empty file of this name says that the job was finished, as after other jobs that write such folders."""

_DEFAULTS = Settings()
# plans and answers are all that goes through Ray's memory
_MEMORY = 256 << 20
_CLUSTER = "the command runs on one of the cluster's machines, with its token where it has one"
# for a head to take a connection
_PATIENCE_S = 10.0


@dataclass(slots=True)
class _Begun:
    """What a folder of results holds already."""

    files: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    """The sources that have rows, or need none, by the one name of each."""
    unread: set[str] = field(default_factory=set)
    """Those of them that could not be read."""
    starts: set[str] = field(default_factory=set)
    """The directories where the jobs that wrote it were started, those with relative names."""
    stale: dict[str, dict[str, str]] = field(default_factory=dict)
    """Of parts the sources, as they stand there, whose rows another part has, or are to be tried again; to each its
    one name."""


class ManyImages:
    """The pictures that some names stand for, to be analysed into a folder of Parquet files.

    Each file holds whole sources and appears when it is whole; its rows are the records of `facexp.sinks`, in the order
    of the sources, as `schema.record_schema` has them.
    """

    def __init__(
        self, names: Iterable[str], out: str | Path, settings: Settings = _DEFAULTS, *, resume: bool = False
    ) -> None:
        """Look for the sources, as `plan.Plan.of` does, and with `resume` for what is already in the folder `out`.

        Raises ManyError where there is something at `out` that must not be written over, or that another job with other
        settings, or with relative names from another directory, has written; BundleError for the bundle.
        """
        how = settings.analyzer
        bundle = Bundle.load(how.bundle)
        try:
            bundle.emotion.head(how.labels)
        except ValueError as error:
            raise ManyError(str(error)) from None
        bundle_at, detector = (path and Path(path).absolute() for path in (how.bundle, how.detector))
        self._settings = replace(settings, analyzer=replace(how, bundle=bundle_at, detector=detector))
        digest = hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()
        self._start = str(Path.cwd())
        self._about = settings.about(f"{bundle.name} {bundle.version} {digest[:16]}", self._start)
        store, folder = Store.of(str(out))
        self._out = (store, os.path.abspath(folder) if store.local else folder)  # noqa: PTH100
        # a worker of a run that was interrupted may still be writing: it must not write over this run's files
        self._token = secrets.token_hex(4)
        self._called = shown(str(out))
        begun = self._begun(resume)
        self._before = begun.files
        self._plan = Plan.of(names, Path(folder) if store.local else None, self._out)
        others = begun.starts - {self._start}
        if others and self._plan.relative:
            raise ManyError(
                f"{self._called}: was written from {printable(min(others))}: "
                "start it there, or name the sources absolutely"
            )
        names = self._names()
        # nobody would try again what is no source of this job
        known = begun.done.union(names if begun.stale else ())
        self._stale = {
            part: [source for source, name in stale.items() if name in known] for part, stale in begun.stale.items()
        }
        self._todo = [item for item, name in zip(self._plan.items, names, strict=True) if name not in begun.done]
        self._unread = sum(name in begun.unread for name in names)

    @property
    def total(self) -> int:
        """How many sources there are."""
        return len(self._plan.items)

    @property
    def left(self) -> int:
        """How many of them have no row yet."""
        return len(self._todo)

    @property
    def unread(self) -> int:
        """How many of those that have rows already could not be read."""
        return self._unread

    def run(
        self,
        workers: int | None = None,
        gpus_per_worker: float = 0.0,
        device: str = "auto",
        address: str | None = None,
    ) -> Generator[Part, None, None]:
        """Do what is left, and say so part by part; to be called once.

        workers: None is one for each core, or for each share of a GPU where `gpus_per_worker` is above 0. device: as
        for Analyzer; "auto" is the CPU where workers have no GPU. address: of a running Ray cluster; None starts Ray on
        this machine alone, unless `ray.init` was called before. Sources, bundle and `out` must be reached under the
        same names from all machines.

        Raises ManyError where the workers cannot work, ValueError for a number of them that is none.
        """
        expect_count("workers", workers, optional=True)
        store, folder = self._out
        try:
            store.filesystem.create_dir(folder, recursive=True)
            self._clear(keep_done=not self._todo)
            for name, sources in self._stale.items():
                take_rows(store, folder, name, sources)
            if self._todo:
                with _ray(address, workers) as ray:
                    yield from self._run(ray, workers, gpus_per_worker, device)
            # what workers that died have begun
            self._clear(keep_done=True)
            with store.filesystem.open_output_stream(f"{folder}/{DONE}"):
                pass
        except (OSError, pa.ArrowException) as error:
            raise ManyError(f"{store.name(folder)}: the results cannot be written: {one_line(error)}") from None

    def _run(self, ray: Any, workers: int | None, gpus: float, device: str) -> Iterator[Part]:
        kind, share = ("GPU", gpus) if gpus else ("CPU", 1)
        has = ray.cluster_resources().get(kind, 0)
        most = int(has / share)
        if most < 1:
            raise ManyError(f"Ray has {has:g} {kind}s: no worker can have {share:g}")
        workers = most if workers is None else workers
        if device == "auto" and not gpus:
            device = "cpu"
        numbers = [int(found[1]) for name in self._before if (found := re.match(r"part-(\d+)-", name))]
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
        # the command has a bar of its own
        data.context.enable_progress_bars = False
        # Ray replaces a worker that dies, and gives its parts to another, as often as it takes
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
            raise ManyError(f"Ray gave up: {one_line(error)}") from error
        if done != len(self._todo):
            raise ManyError(f"only {done} of {len(self._todo)} sources came back: --resume does the others")
        self._check(written)

    def _check(self, written: dict[str, int]) -> None:
        """See that the files of this run are there, and remove what workers of a run before have written meanwhile.

        What another job has written meanwhile, rows of other sources, stays. `written` has the rows of each file.
        """
        store, folder = self._out
        late = [name for name in self._expect(written) - written.keys() - self._before if is_part(name)]
        begun = _Begun(done=set(self._names() if late else ()))
        for name in late:
            try:
                self._add(begun, name, again=False)
            # damaged, which it is for good
            except ValueError:
                store.filesystem.delete_file(f"{folder}/{name}")
        if begun.stale:
            # of two jobs that take rows from each other at least one sees, before or after, that its own are gone
            self._expect(written, counted=True)
            for name, sources in begun.stale.items():
                take_rows(store, folder, name, sources)
            self._expect(written, counted=True)

    def _expect(self, written: dict[str, int], *, counted: bool = False) -> set[str]:
        """The names in the folder. Raises ManyError where a file of this run is not there or, `counted`, lacks rows."""
        store, folder = self._out
        names = {info.base_name for info in store.filesystem.get_file_info(fs.FileSelector(folder))}
        rows = written.items() if counted else ()
        if not written.keys() <= names or any(
            pq.read_metadata(f"{folder}/{name}", filesystem=store.filesystem).num_rows < count for name, count in rows
        ):
            raise ManyError(
                f"{store.name(folder)}: not all parts are here: {SHARED}, and one job at a time writes there"
            )
        return names

    def _names(self) -> list[str]:
        """The one name of each source."""
        return [one_name(as_utf8(item.name(self._plan.stores)), self._start) for item in self._plan.items]

    def _begun(self, resume: bool) -> _Begun:
        """What is in the folder."""
        (store, folder), called = self._out, self._called
        begun = _Begun()
        try:
            info = store.filesystem.get_file_info(folder)
            if info.type == fs.FileType.NotFound:
                return begun
            if info.type == fs.FileType.File:
                raise ManyError(f"{called}: is a file; the results are a folder of files")
            names = [each.base_name for each in store.filesystem.get_file_info(fs.FileSelector(folder))]
            begun.files = {name for name in names if name.endswith(".parquet") and not name.startswith(".")}
            if names and not resume:
                raise ManyError(f"{called}: is there already: go on with it (--resume), or name another folder")
        except UnicodeError:
            raise ManyError(f"{printable(called)}: cannot be written: {NOT_UTF8}") from None
        except (OSError, pa.ArrowException) as error:
            raise ManyError(f"{called}: what is there cannot be read: {one_line(error)}") from None
        for name in sorted(begun.files):
            try:
                self._add(begun, name)
            # Arrow's error for a damaged file is a ValueError or an OSError
            except (OSError, ValueError, pa.ArrowException) as error:
                raise ManyError(
                    f"{called}/{name}: cannot be read ({one_line(error)}); "
                    "if it is damaged, remove it: --resume does its sources again"
                ) from None
        return begun

    def _add(self, begun: _Begun, name: str, *, again: bool = True) -> None:
        """Take what a file of the folder holds; `again`: what could not be read for its disk or store is not done."""
        (store, folder), start = self._out, self._start
        # pq.read_table takes many times as long
        with pq.ParquetFile(f"{folder}/{name}", filesystem=store.filesystem) as file:
            metadata = file.metadata.metadata
            # older versions did not write where they were started
            began = self._expect_same(f"{self._called}/{name}", about(metadata)) or start
            table = file.read(["source", "error"])
        names = {
            source: one_name(source if began == start else whole(source, began), start)
            for source in (*table.column("source").to_pylist(), *frameless(metadata))
        }
        failed = table.filter(pc.is_valid(table.column("error")))
        if is_part(name):
            stale = {source for source in table.column("source").to_pylist() if names[source] in begun.done}
            if again:
                passing = failed.filter(pc.match_substring(failed.column("error"), f": {UNREAD}: "))
                stale.update(passing.column("source").to_pylist())
            if stale:
                begun.stale[name] = {source: names[source] for source in stale}
        taken = names.keys() - begun.stale.get(name, {})
        begun.done.update(names[source] for source in taken)
        begun.unread.update(names[source] for source in taken.intersection(failed.column("source").to_pylist()))
        if any(is_relative(source) for source in names):
            begun.starts.add(began)

    def _expect_same(self, called: str, found: str | None) -> str | None:
        """Where the job that wrote a file was started, where the file tells."""
        if found is None:
            raise ManyError(f"{called}: is not of facexp")
        before, now = json.loads(found), json.loads(self._about)
        start = before.pop("start", None)
        del now["start"]
        # 40 and 40.0 are the same setting
        if before != now:
            changed = ", ".join(f"{key} was {before.get(key)}" for key in now if before.get(key) != now[key])
            raise ManyError(f"{called}: was written with other settings ({changed})")
        return None if start is None else str(start)

    def _clear(self, keep_done: bool) -> None:
        """Remove what dead workers left half-written, and the mark of an end that is one no longer."""
        store, folder = self._out
        for info in store.filesystem.get_file_info(fs.FileSelector(folder)):
            if is_begun(info.base_name) or (info.base_name == DONE and not keep_done):
                store.filesystem.delete_file(info.path)


@contextlib.contextmanager
def _ray(address: str | None, workers: int | None) -> Iterator[Any]:
    """Ray, connected, and in the end as it was before. Nothing is sent anywhere, nothing is printed."""
    # read on import
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is not None:
        _expect_listener(address)
        # Ray would ask twenty times, half a minute each, whoever it is that does not answer
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if ray.is_initialized():
        yield ray
        return
    terminated = signal.getsignal(signal.SIGTERM)
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    try:
        if address is None:
            cpus = max(workers or 1, cores())
            ray.init("local", num_cpus=cpus, object_store_memory=_MEMORY, include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
    # Ray raises what it likes, also a plain Exception
    except Exception as error:
        raise ManyError(_unreached(address, error)) from error
    if threading.current_thread() is threading.main_thread():
        # Ray has put its own in the place
        signal.signal(signal.SIGTERM, terminated)
    try:
        yield ray
    finally:
        ray.shutdown()


def _expect_listener(address: str) -> None:
    """Raises ManyError for an address where no head can be. Others, such as "auto", are left to Ray."""
    if address.startswith("ray://"):
        raise ManyError(
            f"{address}: Ray Data does not run through Ray's client; give HOST:PORT of the head: {_CLUSTER}"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()
        except (OSError, OverflowError) as error:
            raise ManyError(f"Ray cannot be reached at {address}: {one_line(error)}") from None


def _unreached(address: str | None, error: Exception) -> str:
    if address is None:
        return f"Ray cannot be started on this machine: {one_line(error)}"
    # the cause ends with what Ray met, after a traceback
    said = str(error.__cause__ or error).strip().rpartition("\n")[2]
    return f"Ray cannot be reached at {address}: {said[:200]} ({_CLUSTER})"
