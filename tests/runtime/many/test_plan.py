"""The sources that the names of a job expand to, and the parts that they are divided into."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from facexp.many import ManyError  # noqa: E402
from facexp.many.plan import Plan, image_column  # noqa: E402
from facexp.many.stores import Store, StoreCache  # noqa: E402


def test_the_image_column_is_the_only_one_or_the_one_with_a_known_name() -> None:
    """Guards the choice among columns of bytes; a table without one is an error."""
    binary, path = pa.binary(), pa.string()
    struct = pa.struct([("bytes", binary), ("path", path)])
    assert image_column(pa.schema([("label", path), ("face", pa.large_binary())])) == ("face", False)
    assert image_column(pa.schema([("mask", binary), ("image", struct)])) == ("image", True)
    with pytest.raises(ValueError, match="has no column of bytes"):
        image_column(pa.schema([("label", path)]))


def test_names_expand_to_sources(album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against sources that are doubled or missed, in lists or folders of tables, and unreadable names."""
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


def test_the_size_of_parts_suits_the_number_of_workers(album: Path) -> None:
    """Guards the end of a job, when all wait for the slowest worker, and the work that is lost with a worker."""
    plan = Plan.of(["album/photo2.png"])
    for count, workers, least in ((10, 4, 10), (10_000, 2, 32), (200_000, 2, 200)):
        parts = plan.parts(plan.items * count, workers, 5)
        assert sum(part.num_rows for part in parts) == count
        assert least <= len(parts) <= least + 1
        assert [part.column("part")[0].as_py() for part in parts] == list(range(5, 5 + len(parts)))


def test_a_store_is_opened_once_for_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the start of a job with a list of a million addresses: opening a store takes milliseconds."""
    options = "?endpoint_override=127.0.0.1:9&region=us-east-1"
    addresses = [
        f"{place}{path}{options if place.startswith('s3') else ''}"
        for place in ("memory://bucket/", "memory://other/", "s3://bucket/", "s3://key:word@bucket/", "file:///")
        for path in ("a.jpg", "b/ü %20 [1].jpg", "b/c/*.png", "b/..jpg", "b/.c/d e.jpg", "b/../c.jpg", "b/#1.jpg", "b/")
    ]
    expected, opened = list(map(Store.of, addresses)), list[str]()
    of = Store.of

    def counted(address: str) -> tuple[Store, str]:
        opened.append(address)
        return of(address)

    monkeypatch.setattr(Store, "of", counted)
    cache = StoreCache()
    assert [cache.open(address) for address in addresses] == expected
    assert cache.open("photos/a.jpg") == of("photos/a.jpg")
    plain = [address for address in addresses if not address.partition("?")[0].endswith(("c.jpg", "1.jpg", "b/"))]
    assert len(set(opened) & set(plain)) == 5
