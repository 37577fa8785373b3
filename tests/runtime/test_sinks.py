"""What is written: the exact schema of the record, CSV, text, and each line flushed at once."""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import PurePath

import numpy as np
import pytest

from facexp.geometry import KEYPOINTS
from facexp.labels import FIVE, SEVEN
from facexp.sinks.records import CsvSink, JsonlSink, TextSink, frame_record
from facexp.sources.shots import Shot
from facexp.types import Emotion, Face, Frame, Smoothed, Timings


def face(label: str = "happy", labels: tuple[str, ...] = SEVEN) -> Face:
    probabilities = {name: 0.876543 if name == label else 0.123457 / (len(labels) - 1) for name in labels}
    points = np.stack([10.123456 + np.arange(15), 20.987654 + np.arange(15)], axis=-1).astype(np.float32)
    return Face((1.23456, 2.0, 30.5, 40.25), 0.934567, points, Emotion(label, probabilities))


def frame(*faces: Face, source: str = "photo.jpg", index: int = 0, time_ms: float = 0.0) -> Frame:
    return Frame(source, index, time_ms, 640, 480, "cpu", faces, Timings(5.12345, 0.4, 0.3))


BROKEN = Frame.unread("bad.jpg", 7, "bad.jpg: is empty (0 bytes)")


def test_the_record_follows_the_schema() -> None:
    """Guards every key, its order and its rounding: users' programs depend on them."""
    record = frame_record(frame(face(), index=3, time_ms=120.04999))
    assert list(record) == ["schema", "source", "frame", "time_ms", "width", "height", "device", "faces", "ms"]
    faces = record.pop("faces")
    assert record == {
        "schema": 2,
        "source": "photo.jpg",
        "frame": 3,
        "time_ms": 120.0,
        "width": 640,
        "height": 480,
        "device": "cpu",
        "ms": {"detect": 5.123, "keypoints": 0.4, "emotion": 0.3},
    }
    (found,) = faces
    assert list(found) == ["id", "box", "score", "keypoints", "emotion"]
    assert found["box"] == [1.23, 2.0, 30.5, 40.25]
    assert found["score"] == 0.9346
    assert list(found["keypoints"]) == list(KEYPOINTS)
    assert found["keypoints"]["left_eye_center"] == [10.12, 20.99]
    assert found["emotion"]["label"] == "happy"
    assert list(found["emotion"]["probabilities"]) == list(SEVEN)
    assert found["emotion"]["probabilities"]["happy"] == 0.8765


def tracked(number: int) -> Face:
    plain, calm = face("angry"), face("sad")
    smoothed = Smoothed(plain.keypoints + 1, calm.emotion)
    return Face(plain.box, plain.score, plain.keypoints, plain.emotion, number, smoothed)


def test_a_tracked_face_has_an_id_and_smoothed_values_next_to_the_raw_ones() -> None:
    """Guards the schema of videos: nothing is replaced, and the id of a photo's face is null."""
    found, plain = frame_record(frame(tracked(7), face()))["faces"]
    assert list(found) == ["id", "box", "score", "keypoints", "emotion", "smoothed"]
    assert (found["id"], plain["id"]) == (7, None)
    assert "smoothed" not in plain
    assert list(found["smoothed"]) == ["keypoints", "emotion"]
    assert found["emotion"]["label"] == "angry"
    assert found["smoothed"]["emotion"]["label"] == "sad"
    assert found["keypoints"]["nose_tip"] == [20.12, 30.99]
    assert found["smoothed"]["keypoints"]["nose_tip"] == [21.12, 31.99]
    stream = io.StringIO()
    CsvSink(stream, SEVEN).write(frame(tracked(7), face()))
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [(row["face"], row["id"], row["emotion"]) for row in rows] == [("0", "7", "angry"), ("1", "", "happy")]
    stream = io.StringIO()
    TextSink(stream).write(frame(tracked(7)))
    # text shows the smoothed values, which do not flicker
    assert stream.getvalue().splitlines()[1].split()[:3] == ["id", "7", "sad"]


def test_a_live_frame_has_its_age() -> None:
    """Guards the two keys that only live sources have, and their columns."""
    live = replace(frame(face(), time_ms=40), age_ms=12.345, dropped=3)
    record = frame_record(live)
    assert list(record)[:6] == ["schema", "source", "frame", "time_ms", "age_ms", "dropped"]
    assert (record["age_ms"], record["dropped"]) == (12.3, 3)
    stream = io.StringIO()
    sink = CsvSink(stream, SEVEN)
    for written in (live, frame()):
        sink.write(written)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert [(row["age_ms"], row["dropped"]) for row in rows] == [("12.3", "3"), ("", "")]


def test_an_error_has_no_faces() -> None:
    """Guards the difference between no face and no picture."""
    assert frame_record(BROKEN) == {
        "schema": 2,
        "source": "bad.jpg",
        "frame": 7,
        "error": "bad.jpg: is empty (0 bytes)",
    }
    assert frame_record(frame())["faces"] == []


class Stream(io.StringIO):
    """A stream that records what had been written at each flush."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed: list[str] = []

    def flush(self) -> None:
        self.flushed.append(self.getvalue())


@pytest.mark.parametrize("kind", [JsonlSink, partial(CsvSink, labels=SEVEN), TextSink], ids=["JSON", "CSV", "text"])
def test_each_frame_is_flushed_whole(kind: type[JsonlSink]) -> None:
    """Guards against losing results in a crash: after each frame all is flushed, ending with a line break."""
    stream = Stream()
    sink = kind(stream)
    for index in range(3):
        sink.write(frame(face(), face(), index=index))
        assert stream.flushed[-1] == stream.getvalue()
        assert stream.getvalue().endswith("\n")
    assert all(text.endswith("\n") for text in stream.flushed)


def test_json_has_one_object_a_line() -> None:
    """Guards one object a line, and letters that are not escaped."""
    stream = io.StringIO()
    sink = JsonlSink(stream)
    names = ["Grüße 😀.jpg", "line\nbreak.jpg"]
    for name in names:
        sink.write(frame(face(), source=name))
    lines = stream.getvalue().splitlines()
    assert [json.loads(line)["source"] for line in lines] == names
    assert "Grüße 😀" in lines[0]


def test_names_of_invalid_utf8_are_written_as_text() -> None:
    """Guards whole files of results: because of a single lone surrogate, pandas and Arrow do not read them."""
    json_stream, csv_stream, name = io.StringIO(), io.StringIO(), os.fsdecode(b"n\xff.jpg")
    for sink in (JsonlSink(json_stream), CsvSink(csv_stream, SEVEN)):
        sink.write(frame(source=name))
        sink.write(Frame.unread(name, 0, f"{name}: is empty"))
    for rows in (
        [json.loads(line) for line in json_stream.getvalue().splitlines()],
        list(csv.DictReader(io.StringIO(csv_stream.getvalue()))),
    ):
        assert [row["source"] for row in rows] == [r"n\udcff.jpg"] * 2
        assert rows[1]["error"] == r"n\udcff.jpg: is empty"


@pytest.mark.parametrize("labels", [SEVEN, FIVE])
def test_csv_has_one_row_a_face(labels: tuple[str, ...]) -> None:
    """Guards the table: one header, a row per face, a row for no face and for an error, Kaggle's column names."""
    stream = io.StringIO()
    sink = CsvSink(stream, labels)
    assert stream.getvalue().count("\n") == 1
    sink.write(frame(face("happy", labels), face("sad", labels), source='a, "b".jpg', index=3, time_ms=120))
    sink.write(frame(source="line\rbreak.jpg"))
    sink.write(BROKEN)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert all(None not in row and None not in row.values() for row in rows)
    assert [row["source"] for row in rows] == ['a, "b".jpg'] * 2 + ["line\rbreak.jpg", "bad.jpg"]
    assert [row["face"] for row in rows] == ["0", "1", "", ""]
    assert [row["emotion"] for row in rows] == ["happy", "sad", "", ""]
    assert [row["error"] for row in rows] == ["", "", "", "bad.jpg: is empty (0 bytes)"]
    assert rows[0] | {"frame": "3", "time_ms": "120", "box_x": "1.23", "box_h": "40.25", "score": "0.9346"} == rows[0]
    assert (rows[0]["prob_happy"], rows[1]["prob_sad"]) == ("0.8765", "0.8765")
    assert [name for name in rows[0] if name.startswith("prob_")] == [f"prob_{label}" for label in labels]
    assert (rows[0]["nose_tip_x"], rows[0]["nose_tip_y"]) == ("20.12", "30.99")
    assert sum(name[:-2] in KEYPOINTS for name in rows[0]) == 30
    assert all(rows[2][name] == "" for name in rows[2] if name not in ("source", "frame", "time_ms"))
    assert rows[2]["time_ms"] == "0.0"
    assert rows[3]["time_ms"] == ""


def test_text_has_one_line_a_face() -> None:
    """Guards the text for people: a heading a picture, a line a face with its second guess, no reason of an error."""
    stream = io.StringIO()
    sink = TextSink(stream)
    sink.write(frame(face()))
    sink.write(frame())
    sink.write(frame(face(), face(), source="x.mp4", index=12, time_ms=480), shot("x.mp4", 12, fps=25.0))
    sink.write(BROKEN)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "photo.jpg  640x480  1 face"
    assert " ".join(lines[1].split()) == "0 happy 88% (angry 2%) box 1,2 30x40 score 0.93"
    assert lines[2] == "photo.jpg  640x480  no face"
    assert lines[3] == "x.mp4  frame 12  0.48 s  640x480  2 faces"
    assert lines[4].startswith("  0  happy ")
    assert lines[5].startswith("  1  happy ")
    assert lines[6:] == ["bad.jpg  not read"]


def shot(name: str, index: int, fps: float | None) -> Shot:
    return Shot(name, PurePath(name), index, 0.0, np.zeros((480, 640, 3), np.uint8), fps)
