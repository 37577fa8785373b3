"""Jobs on an object store with the S3 protocol, as MinIO and Amazon have it: sources, results, and hidden secrets."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

server = pytest.importorskip("moto.server", reason='NO OBJECT STORE TESTED: pip install "facexp[dev]"')
pa = pytest.importorskip("pyarrow", reason='NO OBJECT STORE TESTED: pip install "facexp[ray]"')

import pyarrow.parquet as pq  # noqa: E402
from pyarrow import fs  # noqa: E402

from facexp.many import ManyError, ManyImages, Settings  # noqa: E402
from facexp.many.parts import atomic_file, remove_rows  # noqa: E402
from facexp.many.plan import Plan  # noqa: E402
from facexp.many.stores import Store  # noqa: E402
from result_rows import read_rows  # noqa: E402

Rows = list[dict[str, Any]]
SECRET = "hush/hush hush+hush="


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """HOST:PORT of a running store."""
    # it logs each request
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    running = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    running.start()
    yield "{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def store(endpoint: str, crops: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The store, set up by the environment alone, with the first crops, an empty folder and a text file."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{endpoint}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    made = fs.S3FileSystem(
        endpoint_override=endpoint, scheme="http", allow_bucket_creation=True, allow_bucket_deletion=True
    )
    made.create_dir("bucket/photos/empty", recursive=True)
    for path in [*crops.glob("?.png"), crops / "50.png", crops / "70.png"]:
        put(made, f"bucket/photos/{path.name}", path.read_bytes())
    put(made, "bucket/photos/of people/ü #1.PNG", (crops / "11.png").read_bytes())
    put(made, "bucket/photos/notes.txt", b"no picture")
    yield made
    made.delete_dir("bucket")


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, face_crops=True)


@pytest.fixture
def expected(crops: Path, plain: Rows) -> Rows:
    """The rows of the plain run for the same pictures on disk, with their names in the store."""
    names = [*(f"{number}.png" for number in range(10)), "50.png", "70.png", "11.png"]
    by_name = {Path(row["source"]).name: row for row in plain}
    rows = [renamed(by_name[name], str(crops), "s3://bucket/photos") for name in names]
    rows[-1]["source"] = "s3://bucket/photos/of people/ü #1.PNG"
    return rows


def put(store: Any, path: str, data: bytes) -> None:
    with store.open_output_stream(path) as file:
        file.write(data)


def renamed(row: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return row | {key: row[key].replace(old, new) for key in ("source", "error") if key in row}


def test_a_bucket_gives_the_rows_of_the_plain_run(
    store: Any, settings: Settings, expected: Rows, one_process: None
) -> None:
    """Guards folders, special characters in names, broken and missing objects, results, and an interrupted job."""
    names = ["s3://bucket/photos", "s3://bucket/photos/gone.png"]
    out = "s3://bucket/results/out.parquet"
    running = ManyImages(names, out, settings).run()
    for _ in range(4):
        next(running)
    running.close()
    folder = out.removeprefix("s3://")
    before = {info.path: info.mtime for info in store.get_file_info(fs.FileSelector(folder)) if info.is_file}
    assert len(before) == 4
    with pytest.raises(ManyError, match="exists already"):
        ManyImages(names, out, settings)
    again = ManyImages(names, out, settings, resume=True)
    assert sum(part.sources for part in again.run()) == again.left == len(expected) + 1 - 4
    *rows, gone = read_rows(folder, store)
    assert rows == expected
    assert gone["error"] == "s3://bucket/photos/gone.png: no such file or folder"
    after = {info.path: info.mtime for info in store.get_file_info(fs.FileSelector(folder))}
    assert before.items() <= after.items()
    assert [path.rpartition("/")[2] for path in after if not path.endswith(".parquet")] == ["_SUCCESS"]


def test_globs_and_tables_of_a_bucket_give_their_rows(
    store: Any, settings: Settings, crops: Path, expected: Rows, one_process: None
) -> None:
    """Guards what a glob matches, and Parquet files and folders of them, read one column and some rows at a time."""

    def found(name: str) -> list[str]:
        plan = Plan.of([name])
        return [item.name(plan.stores).removeprefix("s3://bucket/photos/") for item in plan.items]

    assert found("s3://bucket/photos/[23]*") == ["2.png", "3.png"]
    assert found("s3://bucket/photos/*/*") == ["of people/ü #1.PNG"]
    assert found("s3://bucket/**/*1.*") == ["1.png", "of people/ü #1.PNG"]
    data = [(crops / f"{number}.png").read_bytes() for number in range(10)]
    pq.write_table(pa.table({"image": data[:7]}), "bucket/a.parquet", filesystem=store, row_group_size=3)
    structs = [{"bytes": each, "path": None} for each in data[7:]]
    store.create_dir("bucket/b.parquet")
    pq.write_table(pa.table({"image": structs}), "bucket/b.parquet/part-0.parquet", filesystem=store)
    names = ["s3://bucket/*.parquet", "s3://bucket/b.parquet"]
    for _ in ManyImages(names, "s3://bucket/out", settings).run():
        pass
    row_names = [f"s3://bucket/a.parquet#{number}" for number in range(7)]
    row_names += [f"s3://bucket/b.parquet/part-0.parquet#{number}" for number in range(3)]
    wanted = [row | {"source": name} for row, name in zip(expected, row_names, strict=False)]
    assert read_rows("bucket/out", store) == wanted


def test_names_that_look_like_globs_are_found_and_own_results_are_no_sources(
    store: Any, settings: Settings, crops: Path, one_process: None
) -> None:
    """Guards against the row of another object, a traceback, and a job's results that become its sources."""

    def found(name: str) -> list[str]:
        plan = Plan.of([name])
        return [item.name(plan.stores) for item in plan.items if item.problem is None]

    for path in ("photos/[1].png", "[2024-01]/p.png"):
        put(store, f"bucket/{path}", (crops / "3.png").read_bytes())
        assert found(f"s3://bucket/{path}") == [f"s3://bucket/{path}"]
    assert found("s3://bucket/[2024-01]") == ["s3://bucket/[2024-01]/p.png"]
    assert found("s3://bucket/photos/[b-a].png") == []
    data = [(crops / f"{number}.png").read_bytes() for number in range(3)]
    pq.write_table(pa.table({"image": data}), "bucket/faces.parquet", filesystem=store)
    names, out = ["s3://bucket/**/*.parquet"], "s3://bucket/out.parquet"
    assert list(ManyImages(names, out, settings).run())
    again = ManyImages(names, out, settings, resume=True)
    assert (again.left, again.total) == (0, 3)


@pytest.mark.parametrize("where", ["store", "disk"])
def test_objects_that_could_not_be_read_are_tried_again(
    store: Any,
    settings: Settings,
    expected: Rows,
    one_process: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """Guards --resume after throttling or expired credentials: the error rows of that time must not be final."""
    names, out = ["s3://bucket/photos"], "s3://bucket/out" if where == "store" else str(tmp_path / "out")
    folder, filesystem = ("bucket/out", store) if where == "store" else (out, None)
    read = Store.read

    def busy(self: Store, path: str) -> bytes:
        if path.endswith(("2.png", "7.png", "#1.PNG")):
            raise OSError("AWS Error SLOW_DOWN during GetObject operation")
        return read(self, path)

    # two parts, one of them with error rows alone
    monkeypatch.setattr("facexp.many.plan.MIN_PARTS_PER_WORKER", 2)
    monkeypatch.setattr("facexp.many.plan.MAX_PART_SOURCES", 12)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", busy)
        assert sum(len(part.errors) for part in ManyImages(names, out, settings).run()) == 5
    # a job with other sources leaves these rows as they are
    assert list(ManyImages(["s3://bucket/photos/gone.png"], out, settings, resume=True).run())
    assert len(read_rows(folder, filesystem)) == len(expected) + 1
    again = ManyImages(names, out, settings, resume=True)
    assert (again.left, again.unread) == (3, 2)
    assert sum(part.sources for part in again.run()) == 3
    rows = sorted(read_rows(folder, filesystem), key=lambda row: str(row["source"]))
    assert rows.pop([row["source"] for row in rows].index("s3://bucket/photos/gone.png"))["error"]
    assert rows == sorted(expected, key=lambda row: str(row["source"]))
    assert ManyImages(names, out, settings, resume=True).left == 0


def interrupted(_: Any, out: Any, *__: int) -> None:
    """Replace `shutil.copyfileobj`."""
    out.write(b"PAR1")
    raise KeyboardInterrupt


def test_an_interrupted_upload_leaves_no_part(
    store: Any, settings: Settings, expected: Rows, one_process: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards a worker that is ended while it uploads: a store keeps what was written until then."""
    names, out = ["s3://bucket/photos"], "s3://bucket/out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(ManyImages(names, out, settings).run())
    again = ManyImages(names, out, settings, resume=True)
    assert again.left == again.total
    assert list(again.run())
    assert read_rows("bucket/out", store) == expected
    left = [info.base_name for info in store.get_file_info(fs.FileSelector("bucket/out"))]
    assert [name for name in left if not name.startswith("part-")] == ["_SUCCESS"]


def test_a_store_that_cannot_move_a_file_copies_it(tmp_path: Path) -> None:
    """Guards Azure accounts without a hierarchical namespace, in which Arrow moves no file."""

    class CannotMove(fs.LocalFileSystem):
        def move(self, source: str, target: str) -> None:
            raise pa.ArrowNotImplementedError("FileSystem::Move() is not implemented")

    with atomic_file(Store(CannotMove(), "abfs"), str(tmp_path), "part-000000-0a1b2c3d.parquet") as path:
        Path(path).write_bytes(b"rows")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"part-000000-0a1b2c3d.parquet": b"rows"}


def test_an_interrupted_resume_loses_no_rows(store: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards Ctrl-C while --resume takes rows from a part: a store keeps what was written until then."""
    schema = pa.schema([("source", pa.string())])
    path = "bucket/results/part-000000-0a1b2c3d.parquet"
    pq.write_table(pa.table({"source": ["a", "b"]}, schema), path, filesystem=store)

    def take() -> None:
        remove_rows(*Store.of("s3://bucket/results"), path.rpartition("/")[2], ["a"])

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", interrupted)
        with pytest.raises(KeyboardInterrupt):
            take()
    assert pq.read_table(path, filesystem=store).column(0).to_pylist() == ["a", "b"]
    take()
    assert pq.read_table(path, filesystem=store).column(0).to_pylist() == ["b"]
    left = store.get_file_info(fs.FileSelector("bucket/results"))
    assert [info.path for info in left] == [path]


def test_credentials_of_an_address_are_used_and_never_shown(
    store: Any,
    endpoint: str,
    settings: Settings,
    expected: Rows,
    one_process: None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Guards records, notes, files' metadata, the log and errors: of locations, missing objects and invalid names."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    caplog.set_level(logging.DEBUG, "facexp")
    there = f"endpoint_override={endpoint}&scheme=http&region=us-east-1"
    user = f"key:{quote(SECRET, safe='')}@"
    names = [f"s3://{user}bucket/{path}?{there}" for path in ("photos", "none", "gone.png", "notes.parquet")]
    put(store, "bucket/notes.parquet", b"no table")
    parts = list(ManyImages(names, f"s3://{user}bucket/out?{there}", settings).run())
    results = Store.of(f"s3://{user}bucket/out?{there}")[0].filesystem
    rows = read_rows("bucket/out", results)
    assert rows[: len(expected)] == expected
    files = [info.path for info in results.get_file_info(fs.FileSelector("bucket/out")) if info.size]
    log = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("facexp"))
    texts = [str(parts), str(rows), log, *(str(pq.read_schema(path, filesystem=results)) for path in files)]
    for place in (
        f"s3://{user}bucket/out?{there}",
        f"s3://{user}none/out?{there}",
        f"s3://{user}bucket/a b?secret_key={SECRET}",
        f"s3://key:{SECRET}@bucket/ü out",
        f"s3://key:{SECRET.replace('/', '')}@bucket/ü out",
        f"s3nothing://{user}bucket/out",
    ):
        with pytest.raises(ManyError) as caught:
            list(ManyImages(names[:1], place, settings).run())
        texts.append(str(caught.value))
    assert [text for text in texts if "hush" in text] == []
