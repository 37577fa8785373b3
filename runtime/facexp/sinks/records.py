"""Write frames as JSON lines, CSV or text to a stream (`facexp.sinks.pictures` writes annotated pictures).

Usage: `JsonlSink(sys.stdout).write(frame, shot)`. Each frame is written in one piece and flushed immediately, so that a
crash loses no result and a reader sees each result as soon as it is ready.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any, Protocol

from facexp.address import as_utf8, printable
from facexp.geometry import KEYPOINTS, Points
from facexp.sources.shots import Shot
from facexp.types import Emotion, Face, Frame


class Stream(Protocol):
    """The output of a sink: an open text file, `sys.stdout`, or any object with these two methods."""

    def write(self, text: str, /) -> object:
        """Write the text."""

    def flush(self) -> object:
        """Pass on buffered text."""


class Sink(Protocol):
    """Writes frames one by one."""

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Write one frame; `shot` is its picture, if there is one."""


def frame_record(frame: Frame) -> dict[str, Any]:
    """Return the frame as plain JSON data in the schema that the README describes.

    Values are rounded to meaningful digits: pixels to 0.01, probabilities and scores to 0.0001. What is not valid UTF-8
    in a name is escaped as text: because of one lone surrogate, pandas and Arrow do not read the whole file.
    """
    record: dict[str, Any] = {"schema": 2, "source": as_utf8(frame.source), "frame": frame.index}
    if frame.error is not None:
        return record | {"error": as_utf8(frame.error)}
    record["time_ms"] = round(frame.time_ms, 1)
    if frame.age_ms is not None:
        record |= {"age_ms": round(frame.age_ms, 1), "dropped": frame.dropped}
    record |= {
        "width": frame.width,
        "height": frame.height,
        "device": frame.device,
        "faces": [_face_record(face) for face in frame.faces],
    }
    if frame.timings is not None:
        timings = frame.timings
        parts = {"detect": timings.detect_ms, "keypoints": timings.keypoints_ms, "emotion": timings.emotion_ms}
        record["ms"] = {name: round(value, 3) for name, value in parts.items()}
    return record


def _face_record(face: Face) -> dict[str, Any]:
    record = {
        "id": face.id,
        "box": [round(float(value), 2) for value in face.box],
        "score": round(float(face.score), 4),
        **_reading(face.keypoints, face.emotion),
    }
    if face.smoothed is not None:
        record["smoothed"] = _reading(face.smoothed.keypoints, face.smoothed.emotion)
    return record


def _reading(keypoints: Points, emotion: Emotion) -> dict[str, Any]:
    return {
        "keypoints": {
            name: [round(x, 2), round(y, 2)] for name, (x, y) in zip(KEYPOINTS, keypoints.tolist(), strict=True)
        },
        "emotion": {
            "label": emotion.label,
            "probabilities": {name: round(float(p), 4) for name, p in emotion.probabilities.items()},
        },
    }


class _LineSink:
    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def _put(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class JsonlSink(_LineSink):
    """Writes one JSON object a line."""

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Write the frame's line."""
        self._put(json.dumps(frame_record(frame), ensure_ascii=False, allow_nan=False) + "\n")


class CsvSink(_LineSink):
    """Writes one row for each face; a frame without a face gives one row with empty face columns.

    The header row is written at once. `labels` are the analyzer's emotion labels, one column each. Emotion and
    keypoints are always the raw values, even if there are smoothed ones.
    """

    def __init__(self, stream: Stream, labels: Sequence[str]) -> None:
        super().__init__(stream)
        self._labels = tuple(labels)
        box = ["box_x", "box_y", "box_w", "box_h"]
        points = [f"{name}_{axis}" for name in KEYPOINTS for axis in "xy"]
        self._face = ["face", "id", *box, "score", "emotion", *(f"prob_{label}" for label in self._labels), *points]
        self._rows([["source", "frame", "time_ms", "age_ms", "dropped", *self._face, "error"]])

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Write the frame's rows."""
        start = [
            as_utf8(frame.source),
            frame.index,
            "" if frame.error is not None else round(frame.time_ms, 1),
            "" if frame.age_ms is None else round(frame.age_ms, 1),
            "" if frame.dropped is None else frame.dropped,
        ]
        rows = [[*start, number, *self._values(face), ""] for number, face in enumerate(frame.faces)]
        self._rows(rows or [[*start, *[""] * len(self._face), as_utf8(frame.error or "")]])

    def _values(self, face: Face) -> list[object]:
        record = _face_record(face)
        emotion = record["emotion"]
        points = [value for point in record["keypoints"].values() for value in point]
        probabilities = [emotion["probabilities"][label] for label in self._labels]
        return [
            "" if face.id is None else face.id,
            *record["box"],
            record["score"],
            emotion["label"],
            *probabilities,
            *points,
        ]

    def _rows(self, rows: Sequence[Sequence[object]]) -> None:
        lines = []
        for row in rows:
            text = io.StringIO()
            # Python 3.11 quotes only the line-end characters that are in `lineterminator`
            csv.writer(text, lineterminator="\r\n").writerow(row)
            lines.append(text.getvalue().removesuffix("\r\n") + "\n")
        self._put("".join(lines))


class TextSink(_LineSink):
    """Writes a heading for each picture and a line for each face, for people to read."""

    def write(self, frame: Frame, shot: Shot | None = None) -> None:
        """Write the frame's lines."""
        name = printable(frame.source)
        if frame.error is not None:
            self._put(f"{name}  not read\n")
            return
        if shot is not None and shot.fps is not None:
            name += f"  frame {frame.index}  {frame.time_ms / 1000:.2f} s"
        count = f"{len(frame.faces)} face{'s' * (len(frame.faces) != 1)}" if frame.faces else "no face"
        lines = [f"{name}  {frame.width}x{frame.height}  {count}"]
        for number, face in enumerate(frame.faces):
            x, y, w, h = (round(value) for value in face.box)
            first, *others = sorted(face.shown.emotion.probabilities.items(), key=lambda item: -item[1])
            second = f"  ({others[0][0]} {others[0][1]:.0%})" if others else ""
            emotion = f"{first[0]:<8} {first[1]:>4.0%}{second}"
            who = str(number) if face.id is None else f"id {face.id}"
            lines.append(f"  {who}  {emotion:<28}  box {x},{y} {w}x{h}  score {face.score:.2f}")
        self._put("\n".join(lines) + "\n")
