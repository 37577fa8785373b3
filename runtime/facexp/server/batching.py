"""What several requests ask of one network in one run of it."""

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
    """How requests are put together. Raises ValueError for a value out of its range."""

    size: int = 32
    """A batch is full with so many rows; 1 runs each request alone. A request of more rows runs alone, whole."""
    wait_ms: float = 0.0
    """So long a batch that is not full waits for more, from its first request on. With 0 only what has come while the
    network was running goes together, which costs nobody time."""

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
    """A thread that works on batches, and the queue before it. Belongs to one asyncio loop.

    The queue has no bound of its own: who asks goes through a `Gate` first.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[list[Item]], Sequence[Result]],
        batching: Batching,
        on_batch: Callable[[int], object] = lambda rows: None,
    ) -> None:
        """`work` gives a result for each item, in their order; `on_batch` is told the rows of each batch."""
        self._work, self._batching, self._on_batch = work, batching, on_batch
        self._queue: collections.deque[_Waiting[Item, Result]] = collections.deque()
        self._more = asyncio.Event()
        self._closing = False
        self._thread = ThreadPoolExecutor(1, f"facexp-{name}")
        self._task = asyncio.create_task(self._run(), name=f"facexp-{name}")

    async def submit(self, item: Item, rows: int = 1) -> Result:
        """The item's result, or the exception that its batch ended with.

        Whoever stops waiting (a deadline, a client that has gone) takes the item out of the queue.
        """
        if self._closing:
            raise RuntimeError("the batcher is closed")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[Item, Result] = _Waiting(item, rows, loop.time(), loop.create_future())
        self._queue.append(waiting)
        self._more.set()
        try:
            return await waiting.future
        finally:
            # a large picture must not lie here until the batch that runs now has ended
            if waiting.future.cancelled():
                with contextlib.suppress(ValueError):
                    self._queue.remove(waiting)

    async def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        self._closing = True
        self._more.set()
        await self._task
        self._thread.shutdown(wait=False)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._gather()
            batch = self._take()
            if not batch:
                if self._closing and not self._queue:
                    return
                continue
            self._on_batch(sum(waiting.rows for waiting in batch))
            try:
                results = await loop.run_in_executor(self._thread, self._work, [waiting.item for waiting in batch])
            except Exception as error:
                for waiting in batch:
                    if not waiting.future.done():
                        waiting.future.set_exception(error)
                continue
            for waiting, result in zip(batch, results, strict=True):
                if not waiting.future.done():
                    waiting.future.set_result(result)

    async def _gather(self) -> None:
        """Wait for a first request, then for a full batch or the end of the first one's patience."""
        while not self._queue and not self._closing:
            self._more.clear()
            await self._more.wait()
        if not self._queue:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._queue[0].since + self._batching.wait_ms / 1000):
                while not self._closing and sum(waiting.rows for waiting in self._queue) < self._batching.size:
                    self._more.clear()
                    await self._more.wait()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """The next requests that still want an answer, as many as fill a batch."""
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
