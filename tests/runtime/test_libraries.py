"""What a shared library needs, and what of that is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from facexp.libraries import missing, needed

linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF files are Linux's")


def test_the_names_come_in_the_files_order(tmp_path: Path, elf: Callable[[list[str]], bytes]) -> None:
    # guards: the table of names is given by its place in memory, which is not its place in the file
    file = tmp_path / "a.so"
    file.write_bytes(elf(["libcublasLt.so.13", "libc.so.6", "libcuda.so.1"]))
    assert needed(file) == ("libcublasLt.so.13", "libc.so.6", "libcuda.so.1")


@linux
def test_a_real_library(tmp_path: Path) -> None:
    # guards: a reader that only reads what this suite writes
    (file,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    found = needed(file)
    assert any(name.startswith("libc.") for name in found)
    # it has been imported, so all that it needs is there
    assert missing(found) == ()


@pytest.mark.parametrize("length", [0, 5, 60, 130, 200])
def test_what_is_no_such_file_is_refused(tmp_path: Path, elf: Callable[[list[str]], bytes], length: int) -> None:
    # guards: the doctor catches ValueError, no other error of a damaged file
    file = tmp_path / "a.so"
    file.write_bytes(elf(["libone.so.1"])[:length])
    with pytest.raises(ValueError, match=r"empty file|ELF file"):
        needed(file)


@linux
def test_what_cannot_be_loaded_is_named_once(tmp_path: Path, elf: Callable[[list[str]], bytes]) -> None:
    # guards: the name of the library, not the whole of the loader's words
    assert missing(["libc.so.6", "libabsent.so.13", "libabsent.so.13"]) == ("libabsent.so.13",)
