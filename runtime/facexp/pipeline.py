"""Sources -> analyzer -> frames: the loop that everybody would write."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from facexp.errors import SourceError
from facexp.sources import Shot, Source
from facexp.types import Frame

if TYPE_CHECKING:
    from facexp.analyzer import Analyzer


def analyze_sources(
    analyzer: Analyzer, sources: Iterable[Source], every: int = 1, face_crops: bool = False
) -> Iterator[tuple[Frame, Shot | None]]:
    """Each picture's record, with the picture itself; the largest face first.

    `every` takes each so-manieth frame of a clip. With `face_crops` each picture is one face and no detector runs.
    A source that cannot be read gives a Frame whose `error` says why, without a picture, and the next one follows.
    """
    for source in sources:
        index = 0
        try:
            for shot in source.shots(every):
                yield analyze_shot(analyzer, shot, face_crops), shot
                index = shot.index + every
        except SourceError as error:
            yield Frame(source.name, index, 0.0, None, None, None, (), None, str(error)), None


def analyze_shot(analyzer: Analyzer, shot: Shot, face_crops: bool = False) -> Frame:
    """The record of one picture."""
    faces = analyzer.analyze_crops([shot.image]) if face_crops else analyzer.analyze(shot.image)
    height, width = shot.image.shape[:2]
    return Frame(
        source=shot.source,
        index=shot.index,
        time_ms=shot.time_ms,
        width=width,
        height=height,
        device=analyzer.device,
        faces=tuple(faces),
        timings=analyzer.timings,
    )
