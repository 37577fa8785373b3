"""What a job finds in its output folder: results to resume, damaged ones, those of other jobs, and other files."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from facexp.reading import ReadOptions

pa = pytest.importorskip("pyarrow", reason='MANY IMAGES NOT TESTED: pip install "facexp[ray]"')
pq = pytest.importorskip("pyarrow.parquet")

from facexp.many import ManyError, ManyImages, Settings, plan  # noqa: E402
from facexp.many.parts import remove_rows  # noqa: E402
from facexp.many.plan import Plan  # noqa: E402
from facexp.many.stores import Store  # noqa: E402


def test_only_the_jobs_own_files_are_removed(album: Path, settings: Settings, one_process: None) -> None:
    """Guards files, tables as well, that a person puts into the output folder while a job is running."""
    mine = {
        "mine.parquet",
        "part-1.parquet",
        "part-000001-mine.parquet",
        "part-000001-0a1b2c3d.parquet.old",
        ".part-list",
    }
    late = {"part-000099-0a1b2c3d.parquet", ".part-000099-0a1b2c3d.parquet-77", ".part-000099-0a1b2c3d.parquet-tries"}
    parts = ManyImages(["album"], "out", settings).run()
    next(parts)
    for name in mine | late:
        Path("out", name).write_text("a letter")
    assert list(parts)
    left = {path.name for path in Path("out").iterdir()}
    assert mine <= left
    assert not late & left


def sources(out: str) -> list[str]:
    """The source of each row."""
    return sorted(pq.read_table(out, columns=["source"]).column(0).to_pylist())


def test_another_job_in_the_same_folder_keeps_its_rows(album: Path, settings: Settings, one_process: None) -> None:
    """Guards two jobs started at the same time: neither may remove what the other has finished."""
    parts = ManyImages(["album/photo2.png", "album/sub", "album/empty.png"], "out", settings).run()
    next(parts)
    assert list(ManyImages(["album/bad.jpg", "album/photo10.jpg"], "out", settings, resume=True).run())
    assert list(parts)
    photos = ["bad.jpg", "empty.png", "photo10.jpg", "photo2.png", "sub/gray.bmp"]
    assert sources("out") == [f"album/{name}" for name in photos]


def test_two_jobs_that_share_sources_do_not_both_lose_them(
    album: Path, settings: Settings, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards rows that each job finds in the other's file: the job that has lost some reports it and removes none."""
    monkeypatch.setattr(plan, "MIN_PARTS_PER_WORKER", 1)
    first = ManyImages(["album/photo2.png", "album/sub"], "out", settings).run()
    second = ManyImages(["album/sub", "album/photo10.jpg"], "out", settings, resume=True).run()
    next(first)
    next(second)
    assert len(sources("out")) == 4
    assert not list(first)
    with pytest.raises(ManyError, match=r"only one job at a time may write there$"):
        list(second)
    assert sources("out") == ["album/photo10.jpg", "album/photo2.png", "album/sub/gray.bmp"]


def test_a_source_without_rows_stays_done_when_its_file_loses_rows(
    album: Path, settings: Settings, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards --resume against reading a clip without rows again because others of its part are tried again."""
    monkeypatch.setattr(plan, "MIN_PARTS_PER_WORKER", 1)
    late = replace(settings, options=ReadOptions(start_s=1000.0))
    for others, left in ((["album/sub/gray.bmp"], ["album/sub/gray.bmp"]), ([], [])):
        names = ["album/clip.mp4", *others, "album/gone.png"]
        out = f"out{len(others)}"
        assert list(ManyImages(names, out, late).run())
        (path,) = Path(out).glob("*.parquet")
        store, folder = Store.of(out)
        gone = pq.read_table(path, columns=["source"]).column(0).to_pylist()
        remove_rows(store, folder, path.name, [name for name in gone if name not in others])
        assert sources(out) == left
        assert ManyImages(["album/clip.mp4"], out, late, resume=True).left == 0


def test_a_job_resumed_twice_at_once_duplicates_no_rows(album: Path, settings: Settings, one_process: None) -> None:
    """Guards against double rows if a worker outlives its job and the next is interrupted too, or cron starts two."""
    names = ["album/photo2.png", "album/photo10.jpg", "album/sub", "album/empty.png", "album/moving.png"]
    assert list(ManyImages(names, "plain", settings).run())
    first = ManyImages(names, "out", settings).run()
    next(first)
    second = ManyImages(names, "out", settings, resume=True).run()
    next(second)
    # a part that the second has done as well, and one that it has left
    next(first)
    next(first)
    first.close()
    second.close()
    assert len(set(sources("out"))) < len(sources("out"))
    last = ManyImages(names, "out", settings, resume=True)
    assert (last.left, sum(part.sources for part in last.run())) == (2, 2)
    assert sources("out") == sources("plain")
    before = {path: path.stat().st_mtime_ns for path in Path("out").iterdir()}
    again = ManyImages(names, "out", settings, resume=True)
    assert (again.left, list(again.run())) == (0, [])
    assert {path: path.stat().st_mtime_ns for path in Path("out").glob("*.parquet")}.items() <= before.items()


def test_relative_names_belong_to_the_directory_of_the_job(
    album: Path, settings: Settings, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards --resume from elsewhere, where other photos have the same names, and with results of older versions."""
    out = str(album / "out")
    late = replace(settings, options=ReadOptions(start_s=1000.0))
    names = ["album/sub", "album/empty.png", "album/clip.mp4"]
    total = sum(part.sources for part in ManyImages(names, out, late).run())
    for same in (names, [f"./album/../{name}" for name in names], [str(album / name) for name in names]):
        again = ManyImages(same, out, late, resume=True)
        assert (again.left, again.unread, again.total) == (0, 1, total)
    shutil.copytree("album", "other/album")
    monkeypatch.chdir("other")
    with pytest.raises(ManyError) as caught:
        ManyImages(names, out, late, resume=True)
    assert str(caught.value) == (
        f"{out}: was written from {album}: start the job there, or give the sources as absolute paths"
    )
    assert ManyImages([str(album / name) for name in names], out, late, resume=True).left == 0
    # results written from here with absolute names do not block a resume from elsewhere
    assert list(ManyImages([str(album / "album/photo2.png")], out, late, resume=True).run())
    monkeypatch.chdir(album)
    assert ManyImages([*names, "album/photo2.png"], out, late, resume=True).left == 0
    for path in Path(out).glob("*.parquet"):
        table, metadata = pq.read_table(path), pq.read_metadata(path).metadata
        about = json.loads(metadata[b"facexp"])
        assert about.pop("start") in (str(album), str(album / "other"))
        pq.write_table(table.replace_schema_metadata({**metadata, b"facexp": json.dumps(about)}), path)
    monkeypatch.chdir("other")
    assert ManyImages(names, out, late, resume=True).left == 0


def test_names_of_one_file_are_one_source(album: Path) -> None:
    """Guards against two rows for a photo that is named in several ways; records have the first name."""
    pq.write_table(pa.table({"bytes": [b"1"]}), "t.parquet")
    photo = "album/sub/gray.bmp"
    for first in (f"./{photo}", photo, str(album / photo), f"../{album.name}/{photo}"):
        same = [first, photo, f".//{photo}", f"album/../{photo}", str(album / photo), "album/sub", "./album/s*"]
        assert [item.path for item in Plan.of(same).items] == [first]
    tables = ["album/../t.parquet", "t.parquet", str(album / "*.parquet")]
    assert [(item.path, item.row) for item in Plan.of(tables).items] == [("album/../t.parquet", 0)]
    # `..` after a link is the parent of the folder that it points to
    shutil.copytree("album", "other/album")
    Path("link").symlink_to("other/album")
    photos = ["link/../album/photo2.png", "album/photo2.png", "album/sub/../photo2.png"]
    assert [item.path for item in Plan.of(photos).items] == photos[:2]
    addresses = [f"file://{album}/{photo}", photo]
    assert len(Plan.of(addresses).items) == 2


@pytest.mark.parametrize("damage", ["empty", "cut", "footer", "rows"])
def test_a_damaged_part_is_named(album: Path, settings: Settings, one_process: None, damage: str) -> None:
    """Guards --resume after a full disk or a power cut: the message names the file and says what to do."""
    names = ["album/photo2.png", "album/sub"]
    assert sum(part.sources for part in ManyImages(names, "out", settings).run()) == 2
    path = min(Path("out").glob("*.parquet"))
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    damaged = {
        "empty": b"",
        "cut": data[: len(data) // 2],
        "footer": data[:footer] + bytes(40) + data[footer + 40 :],
        "rows": bytes(200) + data[200:],
    }
    path.write_bytes(damaged[damage])
    with pytest.raises(ManyError) as caught:
        ManyImages(names, "out", settings, resume=True)
    error = str(caught.value)
    assert error.startswith(f"out/{path.name}: cannot be read (")
    assert error.endswith("); if it is damaged, delete it: --resume analyses its sources again")
    assert "\n" not in error
    path.unlink()
    again = ManyImages(names, "out", settings, resume=True)
    assert (again.left, sum(part.sources for part in again.run())) == (1, 1)


def test_a_part_is_synced_to_disk_before_it_is_renamed(
    album: Path, settings: Settings, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against part files that a power cut leaves empty."""
    synced = []

    def sync(file: int) -> None:
        assert not list(Path("out").glob("*.parquet"))
        synced.append(os.fstat(file).st_ino)

    monkeypatch.setattr(os, "fsync", sync)
    assert [part.rows for part in ManyImages(["album/sub"], "out", settings).run()] == [1]
    assert synced == [path.stat().st_ino for path in Path("out").glob("*.parquet")]
