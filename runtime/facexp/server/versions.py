"""Versions of the models: the newest one in a folder of version folders answers, as in TensorFlow Serving.

    BASE/1/manifest.json ...
    BASE/2/manifest.json ...

A new version is loaded while the current one still answers, and then takes over; the old version first answers the
requests that it has accepted, then it is closed. A version that cannot be loaded is logged and tried again when its
files change; until then the current version stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from facexp.analyzer import Analyzer
from facexp.bundle import MANIFEST
from facexp.errors import FacexpError
from facexp.server.access import ServerError
from facexp.server.errors import NotFound, Stopping
from facexp.server.models import NAMES, Model

POLL_S = 1.0
"""Interval between two scans of the folder, in seconds."""

_logger = logging.getLogger("facexp")

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")
_Fingerprint = tuple[tuple[str, int, int], ...]


class State(enum.IntEnum):
    """State of a version, with TensorFlow Serving's names and numbers."""

    LOADING = 20
    AVAILABLE = 30
    UNLOADING = 40
    END = 50


@dataclass(slots=True, eq=False)
class Version:
    """One version of the three models."""

    number: int
    state: State = State.LOADING
    failed: bool = False
    """Whether its state is END because it could not be loaded."""
    models: dict[str, Model] = field(default_factory=dict)


class Versions:
    """All known versions, and the current one. Belongs to one asyncio loop."""

    def __init__(
        self, base: Path | None, load: Callable[[Path | None], Analyzer], make: Callable[[Analyzer], dict[str, Model]]
    ) -> None:
        """`base` is a bundle or a folder of version folders; None is the bundle that ships with facexp.

        `load` opens a bundle and runs in a thread of its own; `make` builds the models and runs in the loop.
        """
        self._base, self._load, self._make = base, load, make
        self._watched = base is not None and not (base / MANIFEST).is_file()
        self._known: dict[int, Version] = {}
        self._current: Version | None = None
        self._failed: dict[int, _Fingerprint] = {}
        self._draining: set[asyncio.Task[None]] = set()
        # not one of the loop's own threads: asyncio.run waits for those to end, however long it takes
        self._loader = ThreadPoolExecutor(1, "facexp-load")
        self._loader_task: Future[Any] | None = None

    @property
    def current(self) -> Version | None:
        """The version that answers requests; None before `start` and after `close`."""
        return self._current

    async def start(self) -> None:
        """Load the first version. Raises FacexpError or ValueError if none can be loaded."""
        if not self._watched:
            await self._take_over(1, self._base)
            return
        await self.poll()
        if self._current is None:
            raise ServerError(
                f"{self._base}: no bundle ({MANIFEST}) and no version folder (1, 2 ...) with one that can be loaded"
            )

    async def watch(self) -> None:
        """Scan the folder every POLL_S seconds until cancelled."""
        while self._watched:
            await asyncio.sleep(POLL_S)
            try:
                await self.poll()
            except Exception:
                _logger.exception("the folder of versions cannot be checked")

    async def poll(self) -> None:
        """Scan the folder once and make the highest version that can be loaded the current one.

        If no version folder is left, nothing changes; TensorFlow Serving would then stop answering.
        """
        assert self._base is not None
        found = await self._run_in_loader(_scan, self._base)
        for number in sorted(found, reverse=True):
            if self._current is not None and self._current.number == number:
                return
            if self._failed.get(number) == found[number]:
                continue
            try:
                await self._take_over(number, self._base / str(number))
            except Exception as error:
                # ValueError is a setting that does not suit this bundle; any other exception is unexpected
                expected = isinstance(error, FacexpError | ValueError)
                _logger.error("version %d is not loaded: %s", number, error, exc_info=not expected)
                self._failed[number] = found[number]
            else:
                self._failed.pop(number, None)
                return

    def find(self, name: str, number: int | None = None) -> tuple[int, Model]:
        """Return the current version's number and the model.

        Raises NotFound for an unknown model or a version that does not answer, Stopping if no version is loaded.
        """
        if name not in NAMES:
            raise NotFound(f"there is no such model; there are {', '.join(NAMES)}")
        if self._current is None:
            raise Stopping("no version is loaded")
        if number is not None and number != self._current.number:
            raise NotFound(f"model {name}: version {number} does not answer; version {self._current.number} does")
        return self._current.number, self._current.models[name]

    def known(self, name: str, number: int | None = None) -> list[Version]:
        """Return all known versions, newest first, or only the one with that number. Raises NotFound."""
        if name not in NAMES:
            raise NotFound(f"there is no such model; there are {', '.join(NAMES)}")
        chosen = [self._known[each] for each in sorted(self._known, reverse=True) if number in (None, each)]
        if not chosen:
            raise NotFound(f"model {name}: there is no version {number}")
        return chosen

    def under_way(self, name: str) -> int:
        """Return how many requests to a model are under way, those to a version that was replaced included."""
        return sum(version.models[name].gate.held for version in self._known.values() if version.models)

    async def close(self) -> None:
        """Close all versions after their accepted requests are answered; wait for a load in progress."""
        current, self._current = self._current, None
        if current is not None:
            self._retire(current)
        if self._draining:
            await asyncio.wait(self._draining)
        self._loader.shutdown(wait=False, cancel_futures=True)
        if self._loader_task is not None and not self._loader_task.done():
            await asyncio.wait([asyncio.wrap_future(self._loader_task)])

    async def _run_in_loader(self, function: Callable[[_Argument], _Result], argument: _Argument) -> _Result:
        """Run a function in the loader thread and return its result; it finishes even if the caller is cancelled."""
        self._loader_task = future = self._loader.submit(function, argument)
        return await asyncio.wrap_future(future)

    async def _take_over(self, number: int, directory: Path | None) -> None:
        version = self._known[number] = Version(number)
        try:
            analyzer = await self._run_in_loader(self._load, directory)
            version.models = self._make(analyzer)
        except BaseException:
            version.state, version.failed = State.END, True
            raise
        version.state = State.AVAILABLE
        before, self._current = self._current, version
        _logger.info("version %d answers: %s %s", number, analyzer.bundle.name, analyzer.bundle.version)
        if before is not None:
            self._retire(before)

    def _retire(self, version: Version) -> None:
        version.state = State.UNLOADING
        task = asyncio.create_task(_drain(version))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)


async def _drain(version: Version) -> None:
    for model in version.models.values():
        await model.gate.emptied()
        await model.close()
    version.models = {}
    version.state = State.END


def _scan(base: Path) -> dict[int, _Fingerprint]:
    """Return the fingerprint of each version folder, by version number."""
    found = {}
    with contextlib.suppress(OSError):
        for folder in base.iterdir():
            if folder.name.isascii() and folder.name.isdecimal() and folder.name == str(int(folder.name)):
                found[int(folder.name)] = _fingerprint(folder)
    return found


def _fingerprint(folder: Path) -> _Fingerprint:
    facts = []
    with contextlib.suppress(OSError):
        for file in sorted(folder.iterdir()):
            status = file.stat()
            facts.append((file.name, status.st_size, status.st_mtime_ns))
    return tuple(facts)
