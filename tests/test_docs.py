"""The documents agree with the code: their figures, and the names that they mention."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import facexp

DOCS = Path(__file__).parents[1] / "docs"


def test_tables_show_the_figures_of_the_shipped_manifest() -> None:
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


def test_dir_lists_names_that_are_imported_on_first_use() -> None:
    """Guards against completion without these names: `dir` does not know what a module's `__getattr__` returns."""
    assert set(facexp.__all__) <= set(dir(facexp))


def test_names_in_the_documents_exist_after_import_facexp() -> None:
    """Guards against an AttributeError for lines such as facexp.doctor.examine(), which users copy."""
    texts = [path.read_text() for path in (DOCS.parent / "README.md", *DOCS.glob("*.md"))]
    names = {name for text in texts for name in re.findall(r"\bfacexp\.[a-z_]+(?:\.[A-Za-z_]+)?\b(?!-)", text)}
    assert "facexp.doctor.examine" in names
    for name in sorted(names):
        done = subprocess.run([sys.executable, "-c", f"import facexp; {name}"], capture_output=True, text=True)
        assert done.returncode == 0, f"{name}\n{done.stderr}"
