"""CSV tables with pictures in their cells: read in chunks with pandas, checked cell by cell, cached as arrays."""

from __future__ import annotations

import codecs
import csv
import hashlib
import logging
import os
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facexp.errors import SourceError
from facexp.geometry import to_gray
from facexp.sources import photo
from facexp_train.errors import DataError
from facexp_train.progress import progress_bar

Arrays = dict[str, NDArray[np.generic]]
Texts = list[str]

# increase this when the arrays that the readers cache change, so that older caches are not used
READER_VERSION = 7
_CHUNK_ROWS = 2000


def chunks(path: Path, expected: Sequence[str], *, quiet: bool = False) -> Iterator[tuple[int, dict[str, Texts]]]:
    """Chunks of a CSV file: the 1-based number of the chunk's first data row, and its cells by column, stripped.

    Spaces around column names are removed, and the columns may be in any order. Raises DataError if the file is
    missing, empty or not a table, or if it lacks one of the `expected` columns or has two columns with the same name.
    """
    row = 1
    try:
        with (
            path.open("rb") as file,
            progress_bar(path.stat().st_size, f"reading {path.name}", "B", quiet=quiet, scale=True) as bar,
            pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True, chunksize=_CHUNK_ROWS) as reader,
        ):
            for frame in reader:
                frame.columns = frame.columns.str.strip()
                found = list(frame.columns)
                if missing := [name for name in expected if name not in found]:
                    raise DataError(
                        f"{path}: no column {listed(missing)}; expected {listed(expected)}, found {listed(found)}"
                    )
                # read the header again: pandas renames the second of two columns with the same name
                names = [name for name in columns(path) if name] if row == 1 else []
                if len(set(names)) < len(names):
                    raise DataError(f"{path}: two columns with the same name; found {listed(names)}")
                # if rows have more cells than the header, pandas uses the first cells as row names
                if not isinstance(frame.index, pd.RangeIndex):
                    raise DataError(f"{path}: row {row}: more cells than the header has columns: {listed(found)}")
                # cells that are missing at the end of a row are NaN, not empty texts
                yield row, {name: frame[name].fillna("").str.strip().tolist() for name in frame.columns}
                row += len(frame)
                bar.update(file.tell() - bar.n)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty; expected a header with {listed(expected)}") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        _refuse_known(path)
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a CSV table with {listed(expected)}: {reason}") from None
    if row == 1:
        raise DataError(f"{path}: the table has no rows; expected at least one below the header")


def rows(path: Path) -> Iterator[list[str]]:
    """The cells of a CSV file row by row, the header first, the rows as in `chunks`; DataError if it is not a table."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # skip empty lines and lines of spaces, as pandas does in `chunks`
            yield from (row for row in csv.reader(file, skipinitialspace=True) if "".join(row[:1]).strip() or row[1:])
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error):
        _refuse_known(path)
        raise DataError(f"{path}: not a CSV table") from None


def columns(path: Path) -> list[str]:
    """The names of a CSV file's columns, without spaces around them; DataError if the file cannot be read."""
    return [name.strip() for name in next(rows(path), [])]


def _refuse_known(path: Path) -> None:
    """Raise DataError if a file is an archive, as datasets are downloaded, or UTF-16, as some spreadsheets export."""
    with path.open("rb") as file:
        start = file.read(2)
    if zipfile.is_zipfile(path) or tarfile.is_tarfile(path) or start == b"\x1f\x8b":
        raise DataError(f"{path}: is an archive; unpack it, and give the CSV file in it")
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise DataError(f"{path}: is text in UTF-16; save it as UTF-8")


def pixels(texts: Texts, size: int, path: Path, row: int, column: str) -> NDArray[np.uint8]:
    """(N, size, size) uint8 images from N texts of size * size whole numbers 0..255, separated by spaces.

    `path`, `row` (of the first text, 1-based) and `column` are for the DataError that names the first invalid cell.
    """
    count = size * size
    values = np.empty(0, dtype=np.int64)
    if all(text.count(" ") == count - 1 for text in texts):
        with warnings.catch_warnings():
            # numpy only stops and warns at the first text that is not a number; the code below then finds the cell
            warnings.simplefilter("ignore", DeprecationWarning)
            try:
                values = np.fromstring(" ".join(texts), dtype=np.int64, sep=" ")
            except ValueError:
                values = np.empty(0, dtype=np.int64)
    if values.size != count * len(texts) or (values.size and (values.min() < 0 or values.max() > 255)):
        values = np.array(
            [_row_of_pixels(text, count, f"{path}: row {row + i}, column {column}") for i, text in enumerate(texts)]
        )
    return values.astype(np.uint8).reshape(-1, size, size)


def numbers(texts: Texts, path: Path, row: int, column: str, *, missing: bool = False) -> NDArray[np.float64]:
    """(N,) float64 from N texts, each a finite number; with `missing`, an empty or "nan" cell becomes NaN.

    DataError names the first cell that is not a number.
    """
    values = np.empty(len(texts), dtype=np.float64)
    for index, text in enumerate(texts):
        if missing and text.lower() in ("", "nan"):
            values[index] = np.nan
            continue
        try:
            values[index] = float(text)
        except ValueError:
            values[index] = np.inf
        if not np.isfinite(values[index]):
            expected = "a number or an empty field" if missing else "a number"
            raise DataError(f"{path}: row {row + index}, column {column}: expected {expected}, found {_shown(text)}")
    return values


def choices(texts: Texts, allowed: dict[str, str], path: Path, row: int, column: str) -> list[str]:
    """The value in `allowed` of each of N texts; DataError names the first text that is not one of its keys."""
    for index, text in enumerate(texts):
        if text not in allowed:
            raise DataError(
                f"{path}: row {row + index}, column {column}: expected one of {listed(list(allowed))}, "
                f"found {_shown(text)}"
            )
    return [allowed[text] for text in texts]


def nonempty(texts: Texts, path: Path, row: int, column: str) -> Texts:
    """The N texts, unchanged; DataError names the first one that is empty."""
    for index, text in enumerate(texts):
        if not text:
            raise DataError(f"{path}: row {row + index}, column {column}: expected a name, found {_shown(text)}")
    return texts


def read_gray(path: Path, where: str = "") -> NDArray[np.uint8]:
    """One picture as (H, W) gray uint8; the DataError for another file starts with `where` ("FILE: row R, column C: ").

    A picture with more than 8 bits per channel or with transparency is converted as the runtime converts it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{where}{path}: expected an image, but it cannot be read: {error.strerror or error}") from None
    data, kind = np.frombuffer(content, dtype=np.uint8), photo.sniff(content[:64])
    try:
        stored = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if kind in ("PNG", "TIFF", "WebP") else None
        if stored is not None and (stored.dtype != np.uint8 or (stored.ndim == 3 and stored.shape[2] == 4)):
            return to_gray(photo.decode(content, str(kind)))
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    except cv2.error:
        image = None
    except SourceError as error:
        raise DataError(f"{where}{path}: expected an image, but it {error}") from None
    if image is None:
        raise DataError(f"{where}{path}: expected an image, but OpenCV cannot decode it")
    return np.asarray(image, dtype=np.uint8)


def cached(source: Path, kind: str, parse: Callable[[], Arrays]) -> Arrays:
    """The arrays that `parse` reads from a file, taken from a cache if neither the file nor the reader has changed.

    `kind` distinguishes several readers of the same file. A cache file that cannot be read is written again, and one
    that cannot be written is only a warning, because the cache only saves time. DataError if there is no file `source`.
    """
    if not source.is_file():
        raise DataError(f"{source}: no such file or folder")
    state = source.stat()
    place = str(source.resolve())
    key = f"{place}|{state.st_size}|{state.st_mtime_ns}|{READER_VERSION}|{kind}"
    # the name depends only on path and kind, so that the cache of a changed file replaces the older one
    file = cache_folder() / f"{source.stem}-{hashlib.blake2b(place.encode(), digest_size=8).hexdigest()}-{kind}.npz"
    arrays = _load(file, key)
    if arrays is None:
        arrays = parse()
        try:
            _save(file, arrays, key)
        except OSError as error:
            logging.getLogger(__name__).warning("%s: not cached, %s", source, error)
    return arrays


def cache_folder() -> Path:
    """The folder of the caches: `facexp` in XDG_CACHE_HOME, or in ~/.cache if that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "facexp"


def _load(file: Path, key: str) -> Arrays | None:
    try:
        with np.load(file, allow_pickle=False) as data:
            if str(data["key"]) != key:
                return None
            return {name: data[name] for name in data.files if name != "key"}
    except Exception:  # a damaged file makes numpy and its zip reader raise errors of many types; parse again then
        return None


def _save(file: Path, arrays: Arrays, key: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"key": np.array(key), **arrays}
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.stem, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            np.savez(stream, **content)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _row_of_pixels(text: str, count: int, where: str) -> NDArray[np.int64]:
    cells = text.split()
    if len(cells) != count:
        raise DataError(f"{where}: expected {count} pixels, found {len(cells)}")
    for number, cell in enumerate(cells, start=1):
        if not cell.isdecimal() or int(cell) > 255:
            raise DataError(f"{where}: pixel {number}: expected a whole number from 0 to 255, found {_shown(cell)}")
    return np.array([int(cell) for cell in cells], dtype=np.int64)


def listed(names: Sequence[str]) -> str:
    """A text with the first 12 names, long ones shortened, and how many more there are."""
    shown = ", ".join(_cut(name) for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown


def _shown(text: str) -> str:
    return repr(_cut(text)) if text else "an empty field"


def _cut(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "..."
