"""Files are read and decoded while others are analysed: OpenCV and onnxruntime both leave Python's lock."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from facexp.reading import ReadOptions
from facexp.shots import Shot, Source

Next = Future[Shot | None]

# photos of 12 megapixels have 3 to 6 MB; several of 50 and more would fill a small machine's memory
_MOST_BYTES = 8_000_000


def read_ahead(
    sources: Iterable[Source], options: ReadOptions, readers: int
) -> Iterator[tuple[Source, Iterator[Shot]]]:
    """Each source with its shots, as `Source.shots` gives them, errors too; `readers` threads read ahead.

    So many photos are decoded at once, and one frame of the clip that is being read. Large files, the only one, and
    sources that are no file, are opened when it is their turn. The order is that of the sources. With 0 readers nothing
    is read ahead.
    """
    if readers == 0:
        for source in sources:
            yield source, source.shots(options)
        return
    pool = ThreadPoolExecutor(readers, thread_name_prefix="facexp-read")
    waiting: deque[tuple[Source, Iterator[Shot], Next | None]] = deque()
    coming = iter(sources)
    begin = list(itertools.islice(coming, 2))
    # a thread takes a quarter of a millisecond of a small photo's eight, and there is nothing to do beside its decoding
    alone = len(begin) < 2
    try:
        for source in itertools.chain(begin, coming):
            shots = source.shots(options)
            early = not alone and source.address is None and _bytes(source.name) <= _MOST_BYTES
            waiting.append((source, shots, pool.submit(next, shots, None) if early else None))
            if len(waiting) > readers:
                yield _taken(pool, *waiting.popleft())
        while waiting:
            yield _taken(pool, *waiting.popleft())
    finally:
        # a reader that hangs in a file must not hold up whoever gives up
        pool.shutdown(wait=False, cancel_futures=True)


def _taken(
    pool: ThreadPoolExecutor, source: Source, shots: Iterator[Shot], first: Next | None
) -> tuple[Source, Iterator[Shot]]:
    if source.address is not None:
        # a camera or a pipe has its own thread, or none, and must not wait open while files before it are read
        return source, shots
    return source, _one_ahead(pool, shots, first)


def _bytes(name: str) -> int:
    try:
        return Path(name).stat().st_size
    except OSError:
        # whoever opens it says why
        return 0


def _one_ahead(pool: ThreadPoolExecutor, shots: Iterator[Shot], first: Next | None) -> Iterator[Shot]:
    shot = next(shots, None) if first is None else first.result()
    while shot is not None:
        # a photo is all that there is: nothing more is asked for
        ahead = None if shot.fps is None else pool.submit(next, shots, None)
        yield shot
        shot = None if ahead is None else ahead.result()
