"""What the runtime's tests share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import facexp


@pytest.fixture(scope="session")
def analyzer(tiny_bundle: Path) -> facexp.Analyzer:
    """On the tiny bundle's float32 files, one thread."""
    return facexp.Analyzer("cpu", 1, precision="float32", bundle=tiny_bundle)


@pytest.fixture
def own_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
