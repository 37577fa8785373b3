"""The main loop: read sources, analyse their pictures and yield the records."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from facexp.address import printable
from facexp.analyzer import Analyzer
from facexp.cores import cores
from facexp.errors import TOO_LARGE, SourceError, no_memory
from facexp.reading import DEFAULTS, ReadOptions
from facexp.sources.prefetch import read_ahead
from facexp.sources.shots import Shot, Source
from facexp.tracking import SMOOTH_S, Tracker
from facexp.types import Frame

# each photo that waits takes memory (36 MB for 12 megapixels), and a network that analyses it as much again
_MAX_READERS = 8


def analyze_sources(
    analyzer: Analyzer,
    sources: Iterable[Source],
    options: ReadOptions = DEFAULTS,
    face_crops: bool = False,
    *,
    detect_every: int | None = None,
    smooth: float = SMOOTH_S,
    readers: int | None = None,
) -> Iterator[tuple[Frame, Shot | None]]:
    """Yield the record of each picture, its largest face first, together with the picture.

    `options` choose the frames. In clips and live sources faces are tracked; `detect_every` and `smooth` are as for
    `Tracker`. With `face_crops` each picture is one face and no detector runs. `readers` is the number of threads that
    decode files ahead and analyse photos, at most 8: None takes one per core, and 0 reads nothing ahead.
    `share_threads` returns the number that suits the sources.
    A source that cannot be read gives a Frame with the reason in `error`, without a picture (None), and the next source
    follows. Raises ValueError for the same arguments as `Tracker`, before the first record.
    """
    new_tracker = partial(Tracker, analyzer, detect_every=detect_every, smooth=smooth)
    # raise ValueError for bad arguments now: photos need no tracker, so it would otherwise come in the middle of a job
    new_tracker()
    if face_crops:
        # a reduced photo must be decoded again if its faces are too small, which `analyze_crops` does not do
        options = replace(options, reduced=False)
    readers = min(cores() if readers is None else readers, _MAX_READERS)

    def analyze_single(shot: Shot) -> Frame | None:
        # photos and face crops are analysed in the reading thread; other frames, which have a rate, need a tracker
        return analyze_shot(analyzer, shot, face_crops) if face_crops or shot.fps is None else None

    for source, shots in read_ahead(sources, options, readers, analyze_single):
        index, tracker = 0, None
        try:
            for shot, frame in shots:
                if frame is None:
                    tracker = tracker or new_tracker()
                    frame = analyze_shot(analyzer, shot, tracker=tracker)
                yield frame, shot
                index = shot.index + options.every
        except SourceError as error:
            yield Frame.unread(source.name, index, str(error)), None
        except Exception as error:
            # if memory is too small for this picture, the other sources can still be analysed
            if not no_memory(error):
                raise
            yield Frame.unread(source.name, index, f"{printable(source.name)}: {TOO_LARGE}"), None


def share_threads(sources: Sequence[Source], threads: int | None = None) -> tuple[int | None, int | None]:
    """Divide `threads` into threads inside each network, for `Analyzer`, and readers, for `analyze_sources`.

    `sources` are the first two sources; None threads are as many as there are cores. If both are photos, several photos
    are analysed at the same time with one thread in each network, which takes two thirds of the time of analysing them
    one by one with two threads. A camera, a clip or a single photo gets all threads for each step.
    """
    if len(sources) > 1 and all(source.is_photo() for source in sources):
        return 1, 0 if threads == 1 else threads
    return threads, None if threads is None else threads - 1


def analyze_shot(analyzer: Analyzer, shot: Shot, face_crops: bool = False, tracker: Tracker | None = None) -> Frame:
    """Return the record of one picture; `tracker`, if given, follows its faces from the previous pictures."""
    if tracker is not None:
        faces, timings = tracker.track(shot.image, shot.time_ms), tracker.timings
    else:
        if face_crops:
            faces = analyzer.analyze_crops([shot.image])
        elif shot.decode is not None:
            faces = analyzer.analyze_reduced(shot.image, shot.reduction, shot.decode)
        else:
            faces = analyzer.analyze(shot.image)
        timings = analyzer.timings
    width, height = shot.size
    return Frame(
        source=shot.source,
        index=shot.index,
        time_ms=shot.time_ms,
        width=width,
        height=height,
        device=analyzer.device,
        faces=tuple(faces),
        timings=timings,
        age_ms=None if shot.captured_s is None else 1000 * (time.monotonic() - shot.captured_s),
        dropped=shot.dropped,
    )
