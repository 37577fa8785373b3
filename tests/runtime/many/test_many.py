"""Parts and their files, without Ray: the contents of the rows, broken sources, and resumed jobs."""

from __future__ import annotations

import base64
import contextlib
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from facexp.analyzer import AnalyzerOptions
from facexp.geometry import KEYPOINTS
from facexp.labels import EMOTIONS
from facexp.pipeline import analyze_sources
from facexp.reading import ReadOptions
from facexp.sinks.records import frame_record
from facexp.sources import open_sources
from facexp.types import Emotion, Face, Frame, Smoothed, Timings

pa = pytest.importorskip("pyarrow", reason='MANY IMAGES NOT TESTED: pip install "facexp[ray]"')
pq = pytest.importorskip("pyarrow.parquet")

import facexp.many.worker as worker_module  # noqa: E402
from facexp.many import ManyError, ManyImages, Settings  # noqa: E402
from facexp.many.plan import Plan  # noqa: E402
from facexp.many.schema import file_schema  # noqa: E402
from facexp.many.stores import Store  # noqa: E402
from facexp.many.worker import Part, Worker  # noqa: E402
from result_rows import read_rows, without_nulls, without_times  # noqa: E402


class Death(BaseException):
    """Ends a worker as a crash does: `except Exception` does not catch it."""


def plain_rows(names: list[str], settings: Settings) -> list[dict[str, Any]]:
    """The JSON records of the local path, without timings."""
    analyzer = replace(settings.analyzer, device="cpu").open()
    frames = analyze_sources(analyzer, open_sources(names), settings.options, settings.face_crops)
    return [without_times(json.loads(json.dumps(frame_record(frame)))) for frame, _ in frames]


def many_rows(
    names: list[str], settings: Settings, out: str = "out.parquet"
) -> tuple[list[dict[str, Any]], list[Part]]:
    """The rows that one worker writes, part by part, and the parts that it returns."""
    plan = Plan.of(names)
    Path(out).mkdir()
    worker = Worker(settings, "cpu", plan.stores, Store.of(out), "0", "{}", str(Path.cwd()))
    parts = [Part(**worker(table).to_pylist()[0]) for table in plan.parts(plan.items, 1, 0)]
    return read_rows(out), parts


@pytest.mark.parametrize("emotions", ["five", "seven"])
def test_the_schema_holds_every_key_of_a_record(emotions: str) -> None:
    """Guards the columns: a key that the JSON lines have and the schema lacks would be dropped silently."""
    labels = EMOTIONS[emotions]
    emotion = Emotion(labels[0], {label: 1 / len(labels) for label in labels})
    points = np.arange(30, dtype=np.float32).reshape(15, 2) / 7
    face = Face((1.23456, 2.0, 30.5, 40.25), 0.934567, points, emotion)
    followed = replace(face, id=3, smoothed=Smoothed(points + 1, emotion))
    photo = Frame("photo.jpg", 0, 0.0, 640, 480, "cpu", (face, followed), Timings(5.12345, 0.4, 0.3))
    broken = Frame.unread("b\udcff.jpg", 7, "b\udcff.jpg: is empty (0 bytes)")
    records = [frame_record(photo), frame_record(replace(photo, faces=())), frame_record(broken)]
    table = pa.Table.from_pylist(records, file_schema(labels, "{}"))
    assert [without_nulls(row) for row in table.to_pylist()] == records
    assert list(table.to_pylist()[0]["faces"][0]["keypoints"]) == list(KEYPOINTS)


def test_a_folder_gives_the_rows_of_the_local_path(album: Path, settings: Settings) -> None:
    """Guards every kind of file: all fields but timings, in the same order; errors become rows, notes are passed on."""
    expected = plain_rows(["album", "gone.jpg"], settings)
    rows, parts = many_rows(["album", "gone.jpg", "album/photo2.png"], settings)
    assert rows == expected
    assert sum("error" in row for row in rows) == 3
    assert sum(len(part.errors) for part in parts) == 3
    assert [note for part in parts for note in part.notes] == ["album/pages.tif: has 2 pages, only the first is read"]
    assert sum(part.faces for part in parts) == sum(len(row.get("faces", ())) for row in rows) > 5


@pytest.mark.parametrize("kind", ["file", "struct", "plain"])
def test_stores_and_tables_give_the_same_rows(album: Path, settings: Settings, kind: str) -> None:
    """Guards files named by address, and tables of encoded files, in Hugging Face's layout and as plain bytes."""
    expected = plain_rows(["album"], settings)
    files = list(dict.fromkeys(row["source"] for row in expected))
    if kind == "file":
        names = {f"file://{album}/{file}": file for file in files}
        rows, _ = many_rows([f"file://{album}/album"], settings)
        (found,), _ = many_rows([f"file://{album}/al*/photo2.*"], settings, "out2.parquet")
        assert names[found["source"]] == "album/photo2.png"
    else:
        data = [Path(file).read_bytes() for file in files]
        column = [{"bytes": each, "path": None} for each in data] if kind == "struct" else data
        pq.write_table(pa.table({"image": column, "label": range(len(files))}), "faces.parquet", row_group_size=3)
        names = {f"faces.parquet#{number}": file for number, file in enumerate(files)}
        rows, _ = many_rows(["faces.parquet"], settings)
    for row in rows:
        row["error"] = row.pop("error", "").replace(row["source"], names[row["source"]])
        row["source"] = names[row["source"]]
    photos = {".png", ".jpg", ".bmp"}
    for row in expected:
        row.setdefault("error", "")
    # a row of a table has no file name that marks it as a clip; its content does
    assert [row for row in rows if Path(row["source"]).suffix in photos] == [
        row for row in expected if Path(row["source"]).suffix in photos
    ]
    assert rows == expected


def test_bad_rows_of_a_table_are_rows_with_an_error(album: Path, settings: Settings) -> None:
    """Guards the good rows against nulls, bytes that are no picture, unsuitable or broken tables, in any row group."""
    good = Path("album/photo2.png").read_bytes()
    pq.write_table(pa.table({"bytes": [None, b"no picture", good] * 70}), "t.parquet", row_group_size=100)
    pq.write_table(pa.table({"a": [b"1"], "b": [b"2"]}), "two.parquet")
    Path("broken.parquet").write_bytes(b"PAR1 nothing")
    pq.write_table(pa.table({"image": [good], "age": [1]}), "odd.parquet")
    schema = pq.read_metadata("odd.parquet").metadata[b"ARROW:schema"]
    # a type that this version of Arrow does not know
    later = base64.b64encode(base64.b64decode(schema).replace(b"\x40\0\0\0", b"\x80\0\0\0"))
    Path("odd.parquet").write_bytes(Path("odd.parquet").read_bytes().replace(schema, later))
    rows, _ = many_rows(["t.parquet", "two.parquet", "broken.parquet", "gone.parquet", "odd.parquet"], settings)
    assert [row["source"] for row in rows[:210]] == [f"t.parquet#{number}" for number in range(210)]
    assert [row.get("error") for row in rows[207:209]] == [
        "t.parquet#207: the row holds no picture",
        "t.parquet#208: is not a photo or clip in a format that facexp reads",
    ]
    assert all(len(row["faces"]) == 1 for row in rows[2:210:3])
    assert [row["source"] for row in rows[210:]] == ["two.parquet", "broken.parquet", "gone.parquet", "odd.parquet"]
    assert "two.parquet: has several columns of bytes (a, b): call the one" in rows[210]["error"]
    assert all("error" in row for row in rows[210:])


def test_a_source_without_a_frame_is_done(
    album: Path, settings: Settings, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards --resume: a clip that ends before --start has no row, but is done; any type of 40 is the same setting."""
    monkeypatch.setattr("facexp.many.worker._ROW_GROUP_ROWS", 1)
    late = replace(settings, options=ReadOptions(start_s=1000.0), analyzer=replace(settings.analyzer, min_face=40))
    names = [str(path) for path in sorted(Path("album").iterdir())]
    expected = plain_rows(names, late)
    job = ManyImages(names, "out", late)
    assert sum(part.rows for part in job.run()) == len(expected) < job.total
    assert read_rows("out") == expected
    for equal in (40.0, np.int64(40), np.float32(40)):
        same = replace(late, analyzer=replace(late.analyzer, min_face=equal))
        assert ManyImages(names, "out", same, resume=True).left == 0


def test_zero_workers_are_refused(album: Path) -> None:
    """Guards against 0 being taken for None, one worker for each core."""
    with pytest.raises(ValueError, match="workers must be None or a whole number of at least 1, got 0"):
        next(ManyImages(["album"], "out").run(workers=0))
    assert not Path("out").exists()


def test_a_worker_that_cannot_work_reports_why(album: Path, settings: Settings) -> None:
    """Guards the message that the user gets; without it, Ray would restart such workers again and again."""
    plan = Plan.of(["album"])
    (table, *_) = plan.parts(plan.items, 1, 0)
    Path("out").mkdir()
    out = Store.of("out")
    missing = Worker(settings, "cpu", plan.stores, out, "0", "{}", str(album / "nowhere"))
    assert "nowhere cannot be reached on" in missing(table).to_pylist()[0]["problem"]
    broken = Worker(
        replace(settings, analyzer=AnalyzerOptions(labels="mine")), "cpu", plan.stores, out, "0", "{}", None
    )
    assert "labels must be one of" in broken(table).to_pylist()[0]["problem"]
    never = Worker(replace(settings, detect_every=0), "cpu", plan.stores, out, "0", "{}", None)
    assert "detect_every must be" in never(table).to_pylist()[0]["problem"]
    full = Worker(settings, "cpu", plan.stores, Store.of("gone/out"), "0", "{}", None)
    assert "gone/out: the results cannot be written" in full(table).to_pylist()[0]["problem"]
    assert not list(Path("out").iterdir())


def test_a_cluster_without_cores_is_an_error(album: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the message for a cluster that is only a head without cores: it was about GPUs."""
    empty = contextlib.nullcontext(SimpleNamespace(cluster_resources=dict))
    monkeypatch.setattr("facexp.many.job._ray", lambda *_: empty)
    with pytest.raises(ManyError, match=r"^Ray has 0 CPUs: no worker can have 1$"):
        list(ManyImages(["album/sub"], "out", settings).run())


def test_existing_results_are_not_overwritten(album: Path, settings: Settings) -> None:
    """Guards results: a folder is resumed only on request and with the same settings; a file is never touched."""
    many_rows(["album/sub"], settings, "mine.parquet")
    Path("file.parquet").write_text("a letter")
    for out, resume, reason in (
        ("mine.parquet", False, "exists already"),
        ("mine.parquet", True, "other settings"),
        ("file.parquet", True, "is a file"),
        ("album", True, "not written by facexp"),
    ):
        if out == "album":
            pq.write_table(pa.table({"source": ["x"]}), "album/x.parquet")
        with pytest.raises(ManyError, match=reason):
            ManyImages(["album"], out, settings, resume=resume)
    with pytest.raises(ManyError, match="cannot be written: a name is not valid UTF-8"):
        ManyImages(["album"], os.fsdecode(b"o\xff"), settings)
    assert Path("file.parquet").read_text() == "a letter"


def test_a_resumed_job_does_only_what_is_missing(album: Path, settings: Settings, one_process: None) -> None:
    """Guards --resume: finished parts stay as they are, half-written ones are removed, each row is there once."""
    expected = plain_rows(["album"], settings)
    out = Path("out.parquet")
    running = ManyImages(["album"], out, settings).run()
    for _ in range(4):
        next(running)
    running.close()
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (out / ".part-000099-0a1b2c3d.parquet-1").write_bytes(b"PAR1")
    # a part in the middle is lost, too
    lost = sorted(done)[1]
    lost.unlink()
    del done[lost]
    assert not (out / "_SUCCESS").exists()
    again = ManyImages(["album"], out, settings, resume=True)
    assert (again.left, again.total) == (5, 8)
    parts = again.run()
    sources = next(parts).sources
    # a worker of the first run finishes late
    lost.write_bytes(next(iter(done)).read_bytes())
    assert sources + sum(part.sources for part in parts) == 5
    assert not list(out.glob(".*"))
    assert (out / "_SUCCESS").exists()
    assert {path: path.stat().st_mtime_ns for path in done} == done
    by_source = {row["source"]: [each for each in expected if each["source"] == row["source"]] for row in expected}
    rows = read_rows(out)
    assert sorted(json.dumps(row) for row in rows) == sorted(json.dumps(row) for row in expected)
    # the frames of a clip stay together, in their order
    for source, frames in by_source.items():
        assert [row for row in rows if row["source"] == source] == frames
    last = ManyImages(["album"], out, settings, resume=True)
    assert (last.left, list(last.run())) == (0, [])
    assert last.unread == len({row["source"] for row in expected if "error" in row}) > 0
    assert (out / "_SUCCESS").exists()


@pytest.mark.parametrize("kind", ["table", "store"])
def test_a_source_that_crashes_its_worker_while_read_becomes_a_row(
    album: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Guards against a job that never ends, and against blame for the picture before."""

    photo = Path("album/photo2.png").read_bytes()
    for name in "abc":
        Path(f"{name}.png").write_bytes(photo)
        pq.write_table(pa.table({"image": [photo] * 2}), f"{name}.parquet")
    batches, content = pq.ParquetFile.iter_batches, Store.read

    def crash_in_table(self: Any, *rest: Any, **more: Any) -> Any:
        if files[-1].startswith("b"):
            raise Death
        return batches(self, *rest, **more)

    def open_table(path: str, **more: Any) -> Any:
        files.append(path)
        return parquet(path, **more)

    def crash_in_store(self: Store, path: str) -> bytes:
        if path.endswith("b.png"):
            raise Death
        return content(self, path)

    parquet, files = pq.ParquetFile, list[str]()
    names = [f"{name}.parquet" if kind == "table" else f"file://{album}/{name}.png" for name in "abc"]
    plan = Plan.of(names)
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", crash_in_table)
    monkeypatch.setattr("facexp.many.content.pq.ParquetFile", open_table)
    monkeypatch.setattr(Store, "read", crash_in_store)
    (part,) = [pa.concat_tables(plan.parts(plan.items, 1, 0)).combine_chunks()]
    Path("out").mkdir()
    deaths = 0
    while not list(Path("out").glob("*.parquet")) and deaths < 9:
        try:
            Worker(settings, "cpu", plan.stores, Store.of("out"), "0", "{}", None)(part)
        except Death:
            deaths += 1
    assert [row["source"].rpartition("/")[2][0] for row in read_rows("out") if "error" in row] == list(
        "bb" if kind == "table" else "b"
    )


def test_a_picture_that_crashes_its_worker_becomes_a_row(
    album: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the job against a file that crashes a decoder: at the fourth attempt the others have their rows."""

    def crash_at_photo10(analyzer: Any, sources: list[Any], *rest: Any, **more: Any) -> Any:
        if sources[0].name == "album/photo10.jpg" and sources[0].problem is None:
            raise Death
        return analyze_sources(analyzer, sources, *rest, **more)

    expected = plain_rows(["album"], settings)
    monkeypatch.setattr(worker_module, "analyze_sources", crash_at_photo10)
    plan = Plan.of(["album"])
    (table,) = [pa.concat_tables(plan.parts(plan.items, 1, 0)).combine_chunks()]
    Path("out").mkdir()
    # a worker that dies while it writes this file leaves it empty
    Path("out/.part-000000-0.parquet-tries").touch()
    deaths = 0
    while not list(Path("out").glob("*.parquet")):
        worker = Worker(settings, "cpu", plan.stores, Store.of("out"), "0", "{}", None)
        try:
            worker(table)
        except Death:
            deaths += 1
        if deaths == 1:
            # as if it had died while it recorded the attempt
            next(Path("out").glob(".*-tries")).write_bytes(b"")
    assert deaths == 4
    rows = read_rows("out")
    bad = [row["source"] for row in rows].index("album/photo10.jpg")
    assert rows[bad]["error"] == "album/photo10.jpg: crashes the process that analyses it"
    assert rows[:bad] + rows[bad + 1 :] == [row for row in expected if row["source"] != "album/photo10.jpg"]
    assert [path.name for path in Path("out").iterdir()] == ["part-000000-0.parquet"]


def test_no_source_is_blamed_for_a_crash_after_the_last_one(
    album: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the last source of a part against blame if the machine fails repeatedly while the rows are written."""

    def die(_: int) -> None:
        raise Death

    plan = Plan.of(["album/photo2.png", "album/sub"])
    (table,) = [pa.concat_tables(plan.parts(plan.items, 1, 0)).combine_chunks()]
    Path("out").mkdir()
    for attempt in range(5):
        with monkeypatch.context() as patch, contextlib.nullcontext() if attempt == 4 else pytest.raises(Death):
            if attempt < 4:
                patch.setattr(os, "fsync", die)
            Worker(settings, "cpu", plan.stores, Store.of("out"), "0", "{}", None)(table)
    assert ["error" in row for row in read_rows("out")] == [False, False]
