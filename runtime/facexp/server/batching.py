"""Dynamic batching: the crops of several requests in one run of a network."""

from __future__ import annotations

import asyncio
import collections
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from facexp.checks import expect_count

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Batching:
    """Settings of the batches. Raises ValueError for a value out of its range."""

    size: int = 32
    """Maximum number of rows in a batch; 1 runs each request alone. A request with more rows runs alone, undivided."""
    wait_ms: float = 0.0
    """How long a batch that is not full waits for more requests, in milliseconds from the arrival of its first request
    (0 to 10,000). With 0 a batch holds only the requests that arrived while the network was running: nothing waits
    longer because of batching."""

    def __post_init__(self) -> None:
        expect_count("size", self.size)
        if not 0 <= self.wait_ms <= 10_000:
            raise ValueError(f"wait_ms must be from 0 to 10000, got {self.wait_ms}")


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    rows: int
    since: float
    future: asyncio.Future[Result]


class Batcher(Generic[Item, Result]):
    """A worker thread that processes batches, and its queue. Belongs to one asyncio loop.

    The queue itself is unbounded: callers pass through a `Gate` first.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Item]], Sequence[Result]],
        batching: Batching,
        on_batch: Callable[[int], object] = lambda rows: None,
    ) -> None:
        """Start the worker; needs a running loop.

        `work` returns one result per item, in the same order; `on_batch` is called with the number of rows of each
        batch before it runs.
        """
        self._batching, self._on_batch = batching, on_batch
        self._queue: collections.deque[_Waiting[Item, Result]] = collections.deque()
        self._wake_up = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, f"facexp-{name}")
        # `work` is a method of a model that holds this batcher: kept in an attribute it would make a cycle, and the
        # memory of a closed version would wait for a full garbage collection
        self._task = asyncio.create_task(self._run(work), name=f"facexp-{name}")

    async def submit(self, item: Item, rows: int = 1) -> Result:
        """Return the item's result. Raises the exception that its batch failed with, RuntimeError after `close`.

        If the caller is cancelled (deadline passed, client disconnected), the item leaves the queue.
        """
        if self._closing:
            raise RuntimeError("the batcher is closed")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(item, rows, loop.time(), loop.create_future())
        self._queue.append(waiting)
        self._wake_up.set()
        try:
            return await waiting.future
        finally:
            # or a large picture would stay in memory until the running batch has ended
            if waiting.future.cancelled():
                with contextlib.suppress(ValueError):
                    self._queue.remove(waiting)

    async def close(self) -> None:
        """Process everything that was submitted, then end the thread."""
        self._closing = True
        self._wake_up.set()
        await self._task
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[list[Item]], Sequence[Result]]) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_batch()
            batch = self._take_batch()
            if not batch:
                if self._closing and not self._queue:
                    return
                continue
            self._on_batch(sum(waiting.rows for waiting in batch))
            try:
                results = await loop.run_in_executor(self._thread, work, [waiting.item for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                continue
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(result)

    async def _wait_for_batch(self) -> None:
        """Wait for a first request, then until the batch is full or `wait_ms` after that request's arrival."""
        while not self._queue and not self._closing:
            self._wake_up.clear()
            await self._wake_up.wait()
        if not self._queue:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._queue[0].since + self._batching.wait_ms / 1000):
                while not self._closing and sum(waiting.rows for waiting in self._queue) < self._batching.size:
                    self._wake_up.clear()
                    await self._wake_up.wait()

    def _take_batch(self) -> list[_Waiting[Item, Result]]:
        """Remove the requests of the next batch from the queue and return them; cancelled ones are dropped."""
        batch: list[_Waiting[Item, Result]] = []
        rows = 0
        while self._queue:
            waiting = self._queue[0]
            if not waiting.future.done():
                if batch and rows + waiting.rows > self._batching.size:
                    break
                batch.append(waiting)
                rows += waiting.rows
            self._queue.popleft()
        return batch
