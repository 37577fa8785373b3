"""Sources -> analyzer -> frames: the loop that everybody would write."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from facexp.ahead import read_ahead
from facexp.analyzer import Analyzer
from facexp.cores import cores
from facexp.errors import SourceError
from facexp.reading import DEFAULTS, ReadOptions
from facexp.shots import Shot, Source
from facexp.tracking import SMOOTH_S, Tracker
from facexp.types import Frame

# a photo that waits takes memory, 36 MB in the case of 12 megapixels
_MOST_READERS = 4


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
    many threads decode files ahead, at most 4, None as many as there are cores; 0: nothing is read ahead.
    A source that cannot be read gives a Frame whose `error` says why, without a picture, and the next one follows.
    """
    if face_crops:
        # such a picture is not looked at again
        options = replace(options, reduced=False)
    readers = min(cores() if readers is None else readers, _MOST_READERS)
    for source, shots in read_ahead(sources, options, readers):
        index, tracker = 0, None
        try:
            for shot in shots:
                # only pictures that follow each other in time have a rate
                if tracker is None and shot.fps is not None and not face_crops:
                    tracker = Tracker(analyzer, detect_every=detect_every, smooth=smooth)
                yield analyze_shot(analyzer, shot, face_crops, tracker), shot
                index = shot.index + options.every
        except SourceError as error:
            yield Frame(source.name, index, 0.0, None, None, None, (), None, str(error)), None


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
