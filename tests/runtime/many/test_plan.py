"""What the names of a job stand for, and the parts that its sources are divided into."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from facexp.many import ManyError  # noqa: E402
from facexp.many.plan import Plan, image_column  # noqa: E402


def test_which_column_holds_the_pictures() -> None:
    """Guards the choice: the only one, or the one by name; none is said to be none."""
    binary, path = pa.binary(), pa.string()
    struct = pa.struct([("bytes", binary), ("path", path)])
    assert image_column(pa.schema([("label", path), ("face", pa.large_binary())])) == ("face", False)
    assert image_column(pa.schema([("mask", binary), ("image", struct)])) == ("image", True)
    with pytest.raises(ValueError, match="has no column of bytes"):
        image_column(pa.schema([("label", path)]))


def test_what_the_names_stand_for(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards each source once, lists, folders of tables, and what many workers cannot read."""
    shutil.copytree("album", "tables.parquet/x")
    pq.write_table(pa.table({"bytes": [b"1", b"2"]}), "tables.parquet/part-1.parquet")
    Path("tables.parquet/_SUCCESS").touch()
    Path("list.txt").write_text("album/sub\ntables.parquet\n")

    def names(*given: str) -> list[str]:
        plan = Plan.of(given)
        return [item.name(plan.stores) for item in plan.items]

    tables = ["tables.parquet/part-1.parquet#0", "tables.parquet/part-1.parquet#1"]
    assert names("@list.txt", "album/sub/gray.bmp", "*/*.parquet") == ["album/sub/gray.bmp", *tables]
    assert names("*.nope.parquet") == ["*.nope.parquet"]
    Path("tables.parquet/x/loop").symlink_to(Path.cwd())
    assert names("**/*.parquet") == tables
    photos = ["album/photo2.png", "album/sub/gray.bmp"]
    Path("album/sub/up").symlink_to("..")
    found = [f"file://{album}/{path}" for path in photos]
    assert [name for name in names(f"file://{album}/album") if name in found] == found
    assert names(f"file://{album}/album/**/*.bmp") == found[1:]
    Path("album/sub/up").unlink()
    Path("tables.parquet/x/loop").unlink()
    own = Plan.of(["*.parquet"], Path("tables.parquet"))
    assert own.items == []
    pq.write_table(pa.table({"bytes": pa.array([], pa.binary())}), "no\nrows.parquet")
    shutil.copy("no\nrows.parquet", "tables.parquet/part-2.parquet")
    broken = os.fsdecode(b"n\xff.parquet")
    Path(broken).touch()
    Path("loop.parquet").symlink_to("loop.parquet")
    os.mkfifo("pipe.parquet")
    shutil.copy("tables.parquet/part-1.parquet", "a[1].parquet")
    assert names("a[1].parquet") == ["a[1].parquet#0", "a[1].parquet#1"]
    given = ["tables.parquet", "no\nrows.parquet", "gone.parquet", broken, "pipe.parquet", "loop.parquet"]
    plan = Plan.of(given, Path("out"))
    assert [item.name(plan.stores) for item in plan.items[:2]] == tables
    assert [item.problem for item in plan.items[2:]] == [
        "has no rows",
        "no such file or folder",
        "cannot be read: a name is not valid UTF-8, which Arrow cannot open: rename it",
        "is neither a file nor a folder",
        "cannot be read: Too many levels of symbolic links",
    ]
    assert names("album/photo*") == ["album/photo2.png", "album/photo10.jpg"]
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    for path in ("/b/x 1.jpg", "/b/c/y.png", "/b/notes.txt", "/b/.z.png"):
        memory.pipe_file(path, b"")
    assert names("memory://b") == ["memory:///b/c/y.png", "memory:///b/x 1.jpg"]
    assert names("memory://b/gone.jpg", "memory://b/gone") == ["memory:///b/gone.jpg", "memory:///b/gone"]
    assert names("memory://b/*.jpg") == ["memory:///b/x 1.jpg"]
    assert names("memory://b/**/y.*") == ["memory:///b/c/y.png"]
    assert [item.problem for item in Plan.of(["memory://b/[z-a].jpg"]).items] == [
        "cannot be read: bad character range z-a at position 4"
    ]
    for live in ("0", "-", "rtsp://user:secret@camera/live", "nothing://me:secret@here"):
        with pytest.raises(ManyError) as caught:
            Plan.of([live])
        assert "secret" not in str(caught.value)


def test_parts_are_many_enough_for_the_workers_and_no_larger_than_that(album: Path) -> None:
    """Guards the last minutes of a job, when all wait for the slowest, and the most that a dying worker loses."""
    plan = Plan.of(["album/photo2.png"])
    for count, workers, least in ((10, 4, 10), (10_000, 2, 32), (200_000, 2, 200)):
        parts = plan.parts(plan.items * count, workers, 5)
        assert sum(part.num_rows for part in parts) == count
        assert least <= len(parts) <= least + 1
        assert [part.column("part")[0].as_py() for part in parts] == list(range(5, 5 + len(parts)))
