"""Read and process several files at once, each in one thread.

Threads run in parallel, because OpenCV and onnxruntime release Python's global interpreter lock.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from facexp.reading import ReadOptions
from facexp.sources.live import READER_THREAD_PREFIX
from facexp.sources.shots import Shot, Source

_Result = TypeVar("_Result")

# photos of 12 megapixels have 3 to 6 MB, of 24 up to 15 MB; many photos of 50 megapixels or more would fill a small
# machine's memory
_PREFETCH_BYTES_PER_READER = 8_000_000


def read_ahead(
    sources: Iterable[Source], options: ReadOptions, readers: int, process: Callable[[Shot], _Result]
) -> Iterator[tuple[Source, Iterator[tuple[Shot, _Result]]]]:
    """Yield each source with an iterator over its shots and the result of `process(shot)` for each.

    The shots, and the errors, are those of `Source.shots`; the sources keep their order. `readers` threads prefetch:
    each reads a shot and calls `process` on it. They work on up to `readers` photos at once, but only one frame ahead
    within a clip. Files beyond 8 MB for each reader, all together, a single source, sources that are not files, and
    files that follow one are opened only when the caller reaches them. With 0 readers nothing is prefetched.
    """

    def next_result(shots: Iterator[Shot]) -> tuple[Shot, _Result] | None:
        shot = next(shots, None)
        return None if shot is None else (shot, process(shot))

    def on_demand(shots: Iterator[Shot]) -> Iterator[tuple[Shot, _Result]]:
        return ((shot, process(shot)) for shot in shots)

    def prefetched(
        shots: Iterator[Shot], first: Future[tuple[Shot, _Result] | None] | None
    ) -> Iterator[tuple[Shot, _Result]]:
        current = next_result(shots) if first is None else first.result()
        while current is not None:
            # a photo has no rate and is the only shot of its source
            upcoming = None if current[0].fps is None else pool.submit(next_result, shots)
            yield current
            current = None if upcoming is None else upcoming.result()

    if readers == 0:
        for source in sources:
            yield source, on_demand(source.shots(options))
        return
    pool = ThreadPoolExecutor(readers, thread_name_prefix=READER_THREAD_PREFIX)
    # the sources, their shots, and how many bytes of each are being prefetched
    waiting: deque[tuple[Source, Iterator[tuple[Shot, _Result]], int]] = deque()
    remaining = iter(sources)
    first_two = list(itertools.islice(remaining, 2))
    # a single source has nothing to overlap with, and a thread would add 0.25 ms to the 8 ms of a small photo
    single = len(first_two) < 2
    try:
        for source in itertools.chain(first_two, remaining):
            shots, size = source.shots(options), 0 if source.address is not None else _file_size(source.name)
            # a camera may run for hours: files that follow would be open all that time, and their content old
            live = any(each.address is not None for each in (source, *(before for before, _, _ in waiting)))
            room = readers * _PREFETCH_BYTES_PER_READER - sum(bytes_ahead for _, _, bytes_ahead in waiting)
            prefetch = not single and not live and size <= room
            first = pool.submit(next_result, shots) if prefetch else None
            # a camera or pipe is read in its own thread, or in none, and must not be open while earlier files are read
            results = on_demand(shots) if source.address is not None else prefetched(shots, first)
            waiting.append((source, results, size if prefetch else 0))
            if len(waiting) > readers:
                yield waiting.popleft()[:2]
        yield from ((source, results) for source, results, _ in waiting)
    finally:
        # do not wait for a thread that hangs while reading a file; `live.hangs` detects it at the end
        pool.shutdown(wait=False, cancel_futures=True)


def _file_size(name: str) -> int:
    try:
        return Path(name).stat().st_size
    except OSError:
        # opening the file reports the reason
        return 0
