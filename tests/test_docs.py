"""Figures in the documents are those of the shipped manifest."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import facexp

DOCS = Path(__file__).parents[1] / "docs"


def test_the_tables_are_the_manifests() -> None:
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    assert spec
    assert spec.loader
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    models = json.loads(figures.MANIFEST.read_text())["models"]
    for path in figures.FILES:
        text = path.read_text()
        assert text.count("<!-- figures:") >= 1
        assert figures.filled(text, models) == text, f"{path.name} is stale; run python docs/figures.py"
        assert "| - |" not in text


def test_completion_and_help_show_what_is_imported_on_first_use() -> None:
    """Guards `dir`, which knows nothing of what a module's `__getattr__` gives."""
    assert set(facexp.__all__) <= set(dir(facexp))


def test_what_the_documents_name_is_there_after_import_facexp() -> None:
    """Guards lines such as facexp.doctor.examine(), which people type as they stand."""
    texts = [path.read_text() for path in (DOCS.parent / "README.md", *DOCS.glob("*.md"))]
    names = {name for text in texts for name in re.findall(r"\bfacexp\.[a-z_]+(?:\.[A-Za-z_]+)?\b(?!-)", text)}
    assert "facexp.doctor.examine" in names
    for name in sorted(names):
        done = subprocess.run([sys.executable, "-c", f"import facexp; {name}"], capture_output=True, text=True)
        assert done.returncode == 0, f"{name}\n{done.stderr}"
