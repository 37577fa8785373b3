"""Files are read, and looked at by whoever read them, several at once: OpenCV and onnxruntime leave Python's lock."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from facexp.live import READER
from facexp.reading import ReadOptions
from facexp.shots import Shot, Source

_Seen = TypeVar("_Seen")

# photos of 12 megapixels have 3 to 6 MB; several of 50 and more would fill a small machine's memory
_MOST_BYTES = 8_000_000


def read_ahead(
    sources: Iterable[Source], options: ReadOptions, readers: int, look: Callable[[Shot], _Seen]
) -> Iterator[tuple[Source, Iterator[tuple[Shot, _Seen]]]]:
    """Each source with its shots, as `Source.shots` gives them, errors too, and what `look` says of each.

    `readers` threads read ahead, and look: at so many photos at once, and at one frame of the clip that is being read,
    after the one before it. Large files, the only one, and sources that are no file, are opened when it is their turn.
    The order is that of the sources. With 0 readers nothing is read ahead.
    """

    def following(shots: Iterator[Shot]) -> tuple[Shot, _Seen] | None:
        shot = next(shots, None)
        return None if shot is None else (shot, look(shot))

    def in_turn(shots: Iterator[Shot]) -> Iterator[tuple[Shot, _Seen]]:
        return ((shot, look(shot)) for shot in shots)

    def one_ahead(
        shots: Iterator[Shot], first: Future[tuple[Shot, _Seen] | None] | None
    ) -> Iterator[tuple[Shot, _Seen]]:
        found = following(shots) if first is None else first.result()
        while found is not None:
            # a photo is all that there is: nothing more is asked for
            ahead = None if found[0].fps is None else pool.submit(following, shots)
            yield found
            found = None if ahead is None else ahead.result()

    if readers == 0:
        for source in sources:
            yield source, in_turn(source.shots(options))
        return
    pool = ThreadPoolExecutor(readers, thread_name_prefix=READER)
    waiting: deque[tuple[Source, Iterator[tuple[Shot, _Seen]]]] = deque()
    coming = iter(sources)
    begin = list(itertools.islice(coming, 2))
    # a thread takes a quarter of a millisecond of a small photo's eight, and there is nothing to do beside it
    alone = len(begin) < 2
    try:
        for source in itertools.chain(begin, coming):
            shots = source.shots(options)
            early = not alone and source.address is None and _bytes(source.name) <= _MOST_BYTES
            first = pool.submit(following, shots) if early else None
            # a camera or a pipe has its own thread, or none, and must not wait open while files before it are read
            waiting.append((source, in_turn(shots) if source.address is not None else one_ahead(shots, first)))
            if len(waiting) > readers:
                yield waiting.popleft()
        yield from waiting
    finally:
        # a reader that hangs in a file must not hold up whoever gives up; `live.hangs` tells it at the end
        pool.shutdown(wait=False, cancel_futures=True)


def _bytes(name: str) -> int:
    try:
        return Path(name).stat().st_size
    except OSError:
        # whoever opens it says why
        return 0
