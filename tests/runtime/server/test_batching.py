"""Requests combined into batches: never too many rows, each with its own answer, none lost at the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from facexp.server.batching import Batcher, Batching

TIMEOUT_S = 60.0


class Work:
    """Doubles numbers; blocks in each batch until `allowed` is released, so that a test decides what waits."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.begun = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        self.begun.release()
        assert self.allowed.acquire(timeout=TIMEOUT_S)
        if 13 in items:
            raise RuntimeError("thirteen")
        return [2 * item for item in items]


def run(test: Callable[[Work, Callable[..., Batcher[int, int]]], Awaitable[None]]) -> Work:
    work = Work()

    async def main() -> None:
        made: list[Batcher[int, int]] = []

        def batcher(**options: Any) -> Batcher[int, int]:
            made.append(Batcher("test", work, Batching(**options)))
            return made[-1]

        async with asyncio.timeout(TIMEOUT_S):
            await test(work, batcher)
            work.allowed.release(100)
            for each in made:
                await each.close()

    asyncio.run(main())
    return work


async def begun(work: Work) -> None:
    assert await asyncio.to_thread(work.begun.acquire, timeout=TIMEOUT_S)


def test_waiting_requests_are_batched_together() -> None:
    """Guards the batches: none over its size, in order, each request with its own answer, a large one alone."""

    async def test(work: Work, make: Any) -> None:
        batcher = make(size=4)
        first = asyncio.create_task(batcher.submit(1))
        await begun(work)
        rows = [(2, 1), (3, 2), (4, 1), (5, 1), (6, 9), (7, 1)]
        others = [asyncio.create_task(batcher.submit(item, count)) for item, count in rows]
        work.allowed.release(100)
        assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10, 12, 14]

    assert run(test).batches == [[1], [2, 3, 4], [5], [6], [7]]


def test_size_1_turns_batching_off() -> None:
    """Guards against batches of what waits: each request runs alone."""

    async def test(work: Work, make: Any) -> None:
        batcher = make(size=1)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        work.allowed.release(100)
        assert await asyncio.gather(*tasks) == [2, 4, 6]

    assert run(test).batches == [[1], [2], [3]]


def test_a_batch_waits_until_it_is_full_or_its_time_is_over() -> None:
    """Guards the wait: a full batch starts at once, one that is not full starts in the end."""

    async def test(work: Work, make: Any) -> None:
        work.allowed.release(100)
        batcher = make(size=3, wait_ms=10_000)
        tasks = [asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))]
        await asyncio.sleep(0.05)
        assert work.batches == []
        tasks.append(asyncio.create_task(batcher.submit(3)))
        assert await asyncio.gather(*tasks) == [2, 4, 6]
        assert await make(size=3, wait_ms=1).submit(4) == 8

    assert run(test).batches == [[1, 2, 3], [4]]


def test_cancelled_requests_are_not_computed() -> None:
    """Guards deadlines and closed connections: their rows take no time of the network, other answers stay right."""

    async def test(work: Work, make: Any) -> None:
        batcher = make(size=4)
        first = asyncio.create_task(batcher.submit(1))
        await begun(work)
        lost, kept = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        lost.cancel()
        # this one is in the middle of its batch
        first.cancel()
        await asyncio.sleep(0)
        work.allowed.release(100)
        assert await kept == 6

    assert run(test).batches == [[1], [3]]


def test_cancelled_requests_leave_the_queue() -> None:
    """Guards the memory: large pictures of cancelled requests must not wait behind a slow batch."""

    async def test(work: Work, batcher: Callable[..., Batcher[int, int]]) -> None:
        each = batcher(size=1)
        first = asyncio.create_task(each.submit(1))
        await begun(work)
        others = [asyncio.create_task(each.submit(number)) for number in range(2, 6)]
        await asyncio.sleep(0)
        for other in others[:3]:
            other.cancel()
        await asyncio.gather(*others[:3], return_exceptions=True)
        assert [waiting.item for waiting in each._queue] == [5]
        work.allowed.release(2)
        assert await asyncio.gather(first, others[3]) == [2, 10]

    assert run(test).batches == [[1], [5]]


def test_an_exception_fails_only_its_own_batch() -> None:
    """Guards the thread: it goes on after an exception, which every request of that batch gets."""

    async def test(work: Work, make: Any) -> None:
        batcher = make(size=2)
        work.allowed.release(100)
        results = await asyncio.gather(*(batcher.submit(item) for item in (13, 1, 2)), return_exceptions=True)
        assert [str(result) for result in results] == ["thirteen", "thirteen", "4"]

    run(test)


def test_closing_answers_what_was_accepted() -> None:
    """Guards the graceful stop: waiting requests are answered, even in a long wait; new ones are refused."""

    async def test(work: Work, make: Any) -> None:
        batcher = make(size=9, wait_ms=10_000)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
        await asyncio.sleep(0)
        work.allowed.release(100)
        await batcher.close()
        assert [await task for task in tasks] == [2, 4]
        with pytest.raises(RuntimeError, match="closed"):
            await batcher.submit(3)

    run(test)


@pytest.mark.parametrize("options", [{"size": 0}, {"wait_ms": -1.0}, {"wait_ms": float("nan")}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(options))} must be"):
        Batching(**options)


def test_the_wait_is_in_milliseconds() -> None:
    """Guards --batch-wait: a single request waits a moment, not a thousand times as long."""

    async def test(work: Work, make: Any) -> None:
        work.allowed.release(100)
        assert await asyncio.wait_for(make(size=3, wait_ms=100).submit(4), 20) == 8

    run(test)
