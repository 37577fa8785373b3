"""Which libraries a shared library needs, and which of them are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from facexp.libraries import missing, needed

linux = pytest.mark.skipif(sys.platform != "linux", reason="ELF files exist only on Linux")


def test_the_names_come_in_the_order_of_the_file(tmp_path: Path, elf: Callable[[list[str]], bytes]) -> None:
    # guards: the string table is given by its address in memory, which is not its offset in the file
    file = tmp_path / "a.so"
    file.write_bytes(elf(["libcublasLt.so.13", "libc.so.6", "libcuda.so.1"]))
    assert needed(file) == ("libcublasLt.so.13", "libc.so.6", "libcuda.so.1")


@linux
def test_a_real_library(tmp_path: Path) -> None:
    # guards: a parser that only reads what these tests write
    (file,) = Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    found = needed(file)
    assert any(name.startswith("libc.") for name in found)
    # it has been imported, so all that it needs is there
    assert missing(found) == ()


@pytest.mark.parametrize("length", [0, 5, 60, 130, 200])
def test_a_truncated_elf_file_is_refused(tmp_path: Path, elf: Callable[[list[str]], bytes], length: int) -> None:
    # guards: the doctor catches ValueError, and no other error of a damaged file
    file = tmp_path / "a.so"
    file.write_bytes(elf(["libone.so.1"])[:length])
    with pytest.raises(ValueError, match=r"empty file|ELF file"):
        needed(file)


@linux
def test_a_library_that_cannot_be_loaded_is_named_once() -> None:
    # guards: the name of the library, not the loader's whole message
    assert missing(["libc.so.6", "libabsent.so.13", "libabsent.so.13"]) == ("libabsent.so.13",)
