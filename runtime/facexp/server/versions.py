"""Which version of the models answers: the newest in a folder of version folders, as TensorFlow Serving has it.

    BASE/1/manifest.json ...
    BASE/2/manifest.json ...

A version that appears is loaded beside the one that answers, takes over, and the old one answers what it has taken
before it goes. One that cannot be loaded is told in the log and tried again when its files change; what answers stays.
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

from facexp.bundle import MANIFEST
from facexp.errors import FacexpError
from facexp.server.access import ServerError
from facexp.server.errors import NotFound, Stopping
from facexp.server.models import NAMES, Loaded, Model

POLL_S = 1.0
"""So often the folder is looked at."""

_logger = logging.getLogger("facexp")

_Given = TypeVar("_Given")
_Found = TypeVar("_Found")
_Fingerprint = tuple[tuple[str, int, int], ...]


class State(enum.IntEnum):
    """Where a version stands; TensorFlow Serving's names and numbers."""

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
    """Whether it ended because it could not be loaded."""
    models: dict[str, Model] = field(default_factory=dict)


class Versions:
    """The versions that there are and the one that answers. Belongs to one asyncio loop."""

    def __init__(
        self, base: Path | None, load: Callable[[Path | None], Loaded], make: Callable[[Loaded], dict[str, Model]]
    ) -> None:
        """`base` is a bundle or a folder of version folders; None is the bundle that ships with facexp.

        `load` runs in a thread of its own, `make` in the loop.
        """
        self._base, self._load, self._make = base, load, make
        self._watched = base is not None and not (base / MANIFEST).is_file()
        self._known: dict[int, Version] = {}
        self._current: Version | None = None
        self._refused: dict[int, _Fingerprint] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        # not one of the loop's own threads, whose end Python waits for however long it takes
        self._loader = ThreadPoolExecutor(1, "facexp-load")
        self._work: Future[Any] | None = None

    @property
    def current(self) -> Version | None:
        """The version that answers who names none; None before the start and after the end."""
        return self._current

    async def start(self) -> None:
        """Load the first version. Raises FacexpError where there is none that can be loaded."""
        if not self._watched:
            await self._take_over(1, self._base)
            return
        await self.poll()
        if self._current is None:
            raise ServerError(
                f"{self._base}: no bundle ({MANIFEST}) and no version folder (1, 2 ...) with one that can be loaded"
            )

    async def watch(self) -> None:
        """Look at the folder until cancelled."""
        while self._watched:
            await asyncio.sleep(POLL_S)
            try:
                await self.poll()
            except Exception:
                _logger.exception("the folder of versions cannot be looked at")

    async def poll(self) -> None:
        """Look at the folder once: the highest number that can be loaded answers; with no folder left nothing changes.

        TensorFlow Serving would then stop to answer.
        """
        assert self._base is not None
        found = await self._aside(_look, self._base)
        for number in sorted(found, reverse=True):
            if self._current is not None and self._current.number == number:
                return
            if self._refused.get(number) == found[number]:
                continue
            try:
                await self._take_over(number, self._base / str(number))
            except Exception as error:
                # a setting that does not go with this bundle is a ValueError; what is neither is a fault of ours
                told = isinstance(error, FacexpError | ValueError)
                _logger.error("version %d is not loaded: %s", number, error, exc_info=not told)
                self._refused[number] = found[number]
            else:
                self._refused.pop(number, None)
                return

    def find(self, name: str, number: int | None = None) -> tuple[int, Model]:
        """The version's number and the model. Raises NotFound, or Stopping where nothing is loaded yet."""
        if name not in NAMES:
            raise NotFound(f"there is no model of this name; there are {', '.join(NAMES)}")
        if self._current is None:
            raise Stopping("no version is loaded")
        if number is not None and number != self._current.number:
            raise NotFound(f"model {name}: version {number} does not answer; version {self._current.number} does")
        return self._current.number, self._current.models[name]

    def known(self, name: str, number: int | None = None) -> list[Version]:
        """The versions that were seen, or the one of that number; newest first. Raises NotFound."""
        if name not in NAMES:
            raise NotFound(f"there is no model of this name; there are {', '.join(NAMES)}")
        chosen = [self._known[each] for each in sorted(self._known, reverse=True) if number in (None, each)]
        if not chosen:
            raise NotFound(f"model {name}: there is no version {number}")
        return chosen

    async def close(self) -> None:
        """Answer what was taken and take no more; a version that is being loaded is waited for."""
        current, self._current = self._current, None
        if current is not None:
            self._retire(current)
        if self._leaving:
            await asyncio.wait(self._leaving)
        self._loader.shutdown(wait=False, cancel_futures=True)
        if self._work is not None and not self._work.done():
            await asyncio.wait([asyncio.wrap_future(self._work)])

    async def _aside(self, work: Callable[[_Given], _Found], given: _Given) -> _Found:
        """What `work` makes of what it is given, in the thread that loads; begun work ends though nobody waits."""
        self._work = future = self._loader.submit(work, given)
        return await asyncio.wrap_future(future)

    async def _take_over(self, number: int, directory: Path | None) -> None:
        version = self._known[number] = Version(number)
        try:
            loaded = await self._aside(self._load, directory)
            version.models = self._make(loaded)
        except BaseException:
            version.state, version.failed = State.END, True
            raise
        version.state = State.AVAILABLE
        before, self._current = self._current, version
        _logger.info("version %d answers: %s %s", number, loaded.bundle.name, loaded.bundle.version)
        if before is not None:
            self._retire(before)

    def _retire(self, version: Version) -> None:
        version.state = State.UNLOADING
        task = asyncio.create_task(_drain(version))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


async def _drain(version: Version) -> None:
    for model in version.models.values():
        await model.gate.emptied()
        await model.close()
    version.models = {}
    version.state = State.END


def _look(base: Path) -> dict[int, _Fingerprint]:
    """The version folders, with what tells whether one has changed."""
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
