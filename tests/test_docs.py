"""Figures in the documents are those of the shipped manifest."""

import importlib.util
import json
from pathlib import Path

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
