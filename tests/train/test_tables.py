"""Tables: every wrong cell is named, and the cache is never trusted blindly."""

from __future__ import annotations

import gzip
import io
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from facexp.geometry import to_gray
from facexp.sources import photo
from facexp_train.data import tables
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar

HERE = Path("faces.csv")
KINDS = ("zip", "gztar")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_archives_and_utf16_files_are_named(tmp_path: Path) -> None:
    # Kaggle's downloads are packed, and spreadsheets save UTF-16: "not a CSV table" would not say what to do
    text = "a,b\n1,2\n"
    table = write(tmp_path / "training.csv", text)
    archive = "is an archive; unpack it, and give the CSV file in it"
    files = {Path(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path, table.name)): archive for kind in KINDS}
    files[write(tmp_path / "t.csv.gz", gzip.compress(text.encode()))] = archive
    files[write(tmp_path / "utf16.csv", text.encode("utf-16"))] = "is text in UTF-16; save it as UTF-8"
    for file, message in files.items():
        for reader in (tables.columns, lambda path: read(path, ["a", "b"])):
            with pytest.raises(DataError, match=message):
                reader(file)


def read(path: Path, expected: list[str]) -> list[tuple[int, dict[str, list[str]]]]:
    return list(tables.chunks(path, expected, quiet=True))


def test_chunks_number_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the row numbers of later chunks, the spaces in a header, and cells kept as texts."""
    monkeypatch.setattr(tables, "_CHUNK_ROWS", 2)
    path = write(tmp_path / "t.csv", "a, b\n1, x\n2,NA\n3,\n")
    assert read(path, ["b", "a"]) == [(1, {"a": ["1", "2"], "b": ["x", "NA"]}), (3, {"a": ["3"], "b": [""]})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty; expected a header with a, b"),
        ("a,b\n", "the table has no rows; expected at least one below the header"),
        ("a,c\n1,2\n", "no column b; expected a, b, found a, c"),
        ("a,c\n", "no column b; expected a, b, found a, c"),
        ("a,b,b\n1,2,3\n", "two columns with the same name; found a, b, b"),
        ("a,b, b \n1,2,3\n", "two columns with the same name; found a, b, b"),
        ("a,b\n1,2,3\n4,5,6\n", "row 1: more cells than the header has columns: a, b"),
        ("a,b\n1,2\n1,2,3\n", "not a CSV table with a, b: .*line 3"),
        (b"a,b\n1,\xff\xfe\n", "not a CSV table with a, b: .*decode"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    """Guards the one-line message about a file that is no table, or not the expected one."""
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(DataError, match=f"t.csv: {message}") as error:
        read(path, ["a", "b"])
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    """Guards that a missing file, and a folder instead of a file, are distinguished from a wrong file."""
    with pytest.raises(DataError, match=r"t.csv: no such file"):
        read(tmp_path / "t.csv", ["a"])
    with pytest.raises(DataError, match=r"cannot be read: Is a directory"):
        read(tmp_path, ["a"])


def test_a_long_list_of_columns_is_shortened(tmp_path: Path) -> None:
    """Guards that a file with hundreds of columns still gives a readable message."""
    path = write(tmp_path / "t.csv", ",".join(f"c{i}" for i in range(300)) + "\n")
    with pytest.raises(DataError, match=r"c11 and 288 more$"):
        read(path, ["a"])
    # without a header, the first row and its pixels are taken for one
    write(path, "0," + "7 " * 2304 + ",Training\n1,2,3\n")
    with pytest.raises(DataError, match=r"found 0, (7 ){20}\.\.\., Training$"):
        read(path, ["a"])


def test_rows_and_chunks_agree(tmp_path: Path) -> None:
    """Guards that both readers of a file agree on spaces before quotes, and on which lines are no rows."""
    path = write(tmp_path / "t.csv", b'\xef\xbb\xbf\n a, "b" ,c\n\n1, "x, y",\n   \n,,\n2\n3, z ,5\n')
    (_, cells), *more = read(path, ["a", "b", "c"])
    assert not more
    header, *rows = [[cell.strip() for cell in row] for row in tables.rows(path)]
    assert header == tables.columns(path) == list(cells)
    # a row that ends early has empty cells
    assert [row + [""] * (3 - len(row)) for row in rows] == [list(row) for row in zip(*cells.values(), strict=True)]
    assert [row[0] for row in rows] == ["1", "", "2", "3"]


@pytest.mark.parametrize("text", ["1 2 3 255", " 1  2 3 255 ", "1\t2 3\n255"])
def test_pixels_are_parsed(text: str) -> None:
    """Guards the values and their positions, with the kinds of whitespace that files have."""
    images = tables.pixels(["0 0 0 0", text], 2, HERE, 1, "pixels")
    assert images.dtype == np.uint8
    assert images.tolist() == [[[0, 0], [0, 0]], [[1, 2], [3, 255]]]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["1 2 3 4", "1 2 3"], "row 12, column pixels: expected 4 pixels, found 3"),
        (["1 2 3", "1 2 3 4 5"], "row 11, column pixels: expected 4 pixels, found 3"),
        (["1 2 3 4", ""], "row 12, column pixels: expected 4 pixels, found 0"),
        (
            ["1 2 3 4", "1 2.5 3 4"],
            "row 12, column pixels: pixel 2: expected a whole number from 0 to 255, found '2.5'",
        ),
        (["1 2 3 x"], "row 11, column pixels: pixel 4: expected a whole number from 0 to 255, found 'x'"),
        (["1 2 3 256"], "row 11, column pixels: pixel 4: expected a whole number from 0 to 255, found '256'"),
        (["-1 2 3 4"], "row 11, column pixels: pixel 1: expected a whole number from 0 to 255, found '-1'"),
        (["1 2 3 " + "9" * 50], "pixel 4: expected a whole number from 0 to 255, found '9{40}...'"),
    ],
)
def test_a_wrong_pixel_is_named(cells: list[str], message: str) -> None:
    """Guards that no wrong pixel is read as something else, and that its file, row and column are named."""
    with pytest.raises(DataError, match=message) as error:
        tables.pixels(cells, 2, HERE, 11, "pixels")
    assert str(error.value).startswith("faces.csv: row 1")


def test_numbers_and_missing_numbers_are_parsed() -> None:
    """Guards that an empty field is a missing number only where one may be missing, and that no text is accepted."""
    values = tables.numbers(["1.5", "", "nan", "-2"], HERE, 1, "x", missing=True)
    assert np.array_equal(values, [1.5, np.nan, np.nan, -2], equal_nan=True)
    with pytest.raises(DataError, match=r"faces.csv: row 2, column x: expected a number, found an empty field"):
        tables.numbers(["1", ""], HERE, 1, "x")
    with pytest.raises(DataError, match=r"row 1, column x: expected a number or an empty field, found 'left'"):
        tables.numbers(["left"], HERE, 1, "x", missing=True)
    with pytest.raises(DataError, match="found 'inf'"):
        tables.numbers(["inf"], HERE, 1, "x")


def test_a_wrong_choice_is_named() -> None:
    """Guards that an unknown word is reported together with the known ones."""
    assert tables.choices(["a", "b"], {"a": "1", "b": "2"}, HERE, 1, "u") == ["1", "2"]
    with pytest.raises(DataError, match=r"faces.csv: row 3, column u: expected one of a, b, found 'c'"):
        tables.choices(["a", "b", "c"], {"a": "1", "b": "2"}, HERE, 1, "u")


def test_a_wrong_image_is_named(tmp_path: Path) -> None:
    """Guards the three kinds of unreadable image: missing, empty, and something else."""
    with pytest.raises(DataError, match=r"^row 3: .*a.png: expected an image, but it cannot be read: No such file"):
        tables.read_gray(tmp_path / "a.png", "row 3: ")
    for content in (b"", b"<html>"):
        with pytest.raises(DataError, match=r"b.png: expected an image, but OpenCV cannot decode it"):
            tables.read_gray(write(tmp_path / "b.png", content))


class Parser:
    """A parser that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, np.ndarray]:
        self.calls += 1
        return {"images": np.arange(5000, dtype=np.int64), "names": np.array(["a", "bc"])}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the caches, for one test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tables.cache_folder()


def test_a_cache_is_read_until_the_file_changes(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards hit and miss: the file's time, its size, the reader's version; and that old caches do not pile up."""
    source, parse = write(tmp_path / "t.csv", "abc"), Parser()
    for _ in range(3):
        arrays = tables.cached(source, "reader", parse)
        assert sorted(arrays) == ["images", "names"]
        assert arrays["images"].tolist() == list(range(5000))
        assert arrays["names"].tolist() == ["a", "bc"]
    assert parse.calls == 1
    os.utime(source, ns=(1, 1))
    tables.cached(source, "reader", parse)
    assert parse.calls == 2
    write(source, "abcd")
    os.utime(source, ns=(1, 1))
    tables.cached(source, "reader", parse)
    assert parse.calls == 3
    monkeypatch.setattr(tables, "READER_VERSION", 99)
    tables.cached(source, "reader", parse)
    assert parse.calls == 4
    assert len(list(cache.iterdir())) == 1


def test_files_of_one_name_have_their_own_caches(tmp_path: Path) -> None:
    """Guards that two folders with a fer2013.csv each do not read each other's faces."""
    (tmp_path / "other").mkdir()
    first, second, parse = write(tmp_path / "t.csv", "abc"), write(tmp_path / "other" / "t.csv", "abc"), Parser()
    os.utime(first, ns=(1, 1))
    os.utime(second, ns=(1, 1))
    for source in (first, second, first):
        tables.cached(source, "reader", parse)
    assert parse.calls == 2


def test_readers_have_their_own_caches(tmp_path: Path) -> None:
    """Guards that what one reader made of a file is not given to another, and that neither deletes the other's."""
    source, parse = write(tmp_path / "t.csv", "abc"), Parser()
    for reader in ("one", "other", "one", "other"):
        tables.cached(source, reader, parse)
    assert parse.calls == 2


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0xFF]) + data[middle + 1 :]


@pytest.mark.parametrize(
    "damage", [truncated, flipped, lambda data: b"", lambda data: b"not a zip file", lambda data: b"PK" + data]
)
def test_a_damaged_cache_is_parsed_again(tmp_path: Path, cache: Path, damage: Callable[[bytes], bytes]) -> None:
    """Guards that a cache cut short or with a flipped byte is neither an error nor used, and is replaced."""
    source, parse = write(tmp_path / "t.csv", "abc"), Parser()
    tables.cached(source, "reader", parse)
    file = next(cache.iterdir())
    file.write_bytes(damage(file.read_bytes()))
    for _ in range(2):
        assert tables.cached(source, "reader", parse)["images"].tolist() == list(range(5000))
    assert parse.calls == 2


def test_a_cache_that_cannot_be_written_gives_a_warning(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards that reading goes on without a cache, with a warning that says so."""
    source = write(tmp_path / "t.csv", "abc")
    write(cache, "in the way")
    with caplog.at_level(logging.WARNING):
        assert len(tables.cached(source, "reader", Parser())["images"]) == 5000
    assert "t.csv: not cached" in caplog.text


def test_a_failed_write_leaves_nothing(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that a full disk leaves neither a partial cache nor a temporary file."""

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    tables.cached(write(tmp_path / "t.csv", "abc"), "reader", Parser())
    assert list(cache.iterdir()) == []


def test_caches_are_in_the_users_cache_folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards where caches are kept."""
    assert cache == tmp_path / "facexp"
    tables.cached(write(tmp_path / "t.csv", "abc"), "reader", Parser())
    assert len(list((tmp_path / "facexp").glob("t-*.npz"))) == 1
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tables.cache_folder() == tmp_path / ".cache" / "facexp"


class Terminal(io.StringIO):
    """A stderr that reports being a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stderr", "quiet", "shown"), [(Terminal, False, True), (Terminal, True, False), (io.StringIO, False, False)]
)
def test_progress_is_shown_only_on_terminals(
    monkeypatch: pytest.MonkeyPatch, stderr: type[io.StringIO], quiet: bool, shown: bool
) -> None:
    """Guards that a pipe or --quiet never sees a progress bar, and a terminal does."""
    stream = stderr()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress_bar(10, "reading", "B", quiet=quiet) as bar:
        bar.update(10)
    assert ("reading: 100%" in stream.getvalue()) is shown


def test_reading_shows_its_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards that the bar of a table ends at the file's size."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    list(tables.chunks(write(tmp_path / "t.csv", "a\n" + "1\n" * 5000), ["a"]))
    assert "reading t.csv: 100%" in stream.getvalue()


@pytest.mark.parametrize("kind", ["12 bits", "transparent", "plain"])
def test_a_picture_is_decoded_as_by_the_runtime(tmp_path: Path, kind: str) -> None:
    """Guards against training on pictures that the runtime sees differently: nearly black, or without transparency."""
    face = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    stored: np.ndarray = face
    if kind == "12 bits":
        stored = face.astype(np.uint16) * 16
    elif kind == "transparent":
        stored = np.dstack([face // 4, np.full((20, 30), 60, np.uint8)])
    data = cv2.imencode(".png", stored)[1].tobytes()
    (tmp_path / "a.png").write_bytes(data)
    gray = tables.read_gray(tmp_path / "a.png")
    assert np.abs(gray.astype(int) - to_gray(photo.decode(data, "PNG"))).max() <= 1
    assert gray.mean() > 100
