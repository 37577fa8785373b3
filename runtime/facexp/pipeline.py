"""Sources -> analyzer -> frames: the loop that everybody would write."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from facexp.address import printable
from facexp.ahead import read_ahead
from facexp.analyzer import Analyzer
from facexp.cores import cores
from facexp.errors import TOO_LARGE, SourceError, no_memory
from facexp.reading import DEFAULTS, ReadOptions
from facexp.shots import Shot, Source
from facexp.tracking import SMOOTH_S, Tracker
from facexp.types import Frame

# a photo that waits takes memory, 36 MB in the case of 12 megapixels, and a network that looks at it as much again
_MOST_READERS = 8


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
    """Each picture's record, with the picture itself; the largest face first.

    `options` say which frames are taken. Where pictures follow each other in time faces are followed; `detect_every`
    and `smooth` are as for `Tracker`. With `face_crops` each picture is one face and no detector runs. `readers` is how
    many threads decode files ahead, and analyse photos, at most 8, None as many as there are cores; 0: nothing is read
    ahead. `share_threads` says how many suit the sources.
    A source that cannot be read gives a Frame whose `error` says why, without a picture, and the next one follows.
    Raises ValueError as `Tracker`, before the first.
    """
    new_tracker = partial(Tracker, analyzer, detect_every=detect_every, smooth=smooth)
    # photos take none: what it refuses would come in the middle of a job
    new_tracker()
    if face_crops:
        # such a picture is not looked at again
        options = replace(options, reduced=False)
    readers = min(cores() if readers is None else readers, _MOST_READERS)

    def alone(shot: Shot) -> Frame | None:
        # only pictures that follow each other in time have a rate
        return analyze_shot(analyzer, shot, face_crops) if face_crops or shot.fps is None else None

    for source, shots in read_ahead(sources, options, readers, alone):
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
            # that there is none for this picture is no reason to leave out the others
            if not no_memory(error):
                raise
            yield Frame.unread(source.name, index, f"{printable(source.name)}: {TOO_LARGE}"), None


def share_threads(sources: Sequence[Source], threads: int | None = None) -> tuple[int | None, int | None]:
    """The threads inside of each network, for `Analyzer`, and the readers, for `analyze_sources`, of `threads` in all.

    `sources` are the first two of those to come; None threads: as many as there are cores. Where both are photos,
    several are analysed at once with one thread in each network, which takes two thirds of the time of one after the
    other with two. A camera, a clip or a photo by itself gets all threads for each step.
    """
    if len(sources) > 1 and all(source.is_photo() for source in sources):
        return 1, 0 if threads == 1 else threads
    return threads, None if threads is None else threads - 1


def analyze_shot(analyzer: Analyzer, shot: Shot, face_crops: bool = False, tracker: Tracker | None = None) -> Frame:
    """The record of one picture; `tracker` follows its faces from the pictures before."""
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
