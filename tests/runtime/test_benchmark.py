"""The benchmark measures what it claims, and reports what it could not measure; no test checks how fast anything is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import facexp
from facexp.benchmark import SCHEMA, Plan, run, table
from facexp.bundle import load_models, shipped
from facexp.timing import Spread, in_turns, run_process


def test_percentiles_from_a_scripted_clock() -> None:
    """Guards units, the order of the percentiles, candidates in turns, and a warm-up that does not count."""
    now, called, rounds = [0.0], [], []

    def candidate(name: str, seconds: list[float]) -> Any:
        def call() -> None:
            called.append(name)
            now[0] += seconds.pop(0)

        return call

    # the first round takes extremely long; then 1 to 100 ms, and ten times that for b
    ladder = [n / 1000 for n in range(1, 101)]
    candidates = {"a": candidate("a", [999.0, *ladder]), "b": candidate("b", [999.0, *(10 * n for n in ladder)])}
    spreads = in_turns(candidates, 100, step=lambda: rounds.append(len(called)), clock=lambda: now[0])
    assert called == ["a", "b"] * 101
    assert rounds == list(range(2, 203, 2))
    # linear between neighbours: the p-th of 1..100 is 1 + 0.99 p
    found = [spreads["a"].least, spreads["a"].p50, spreads["a"].p90, spreads["a"].p99]
    assert found == pytest.approx([1, 50.5, 90.1, 99.01])
    assert (spreads["a"].count, spreads["b"].p90) == (100, pytest.approx(901))
    with pytest.raises(ValueError, match="no time"):
        Spread.of([])


def test_a_process_is_measured_without_its_parent() -> None:
    """Guards: the peak memory of a process is not its parent's, and a failed process is an error, not a time."""
    heavy = np.ones(40_000_000)
    assert heavy.nbytes == 320_000_000
    small, large = (run_process([sys.executable, "-c", f"b'1' * {size}"]) for size in (1, 60_000_000))
    if small.peak_mb is None or large.peak_mb is None:
        pytest.skip("this system does not report a process's peak memory")
    assert 1 < small.peak_mb < 60 < large.peak_mb < 200
    assert small.seconds > 0
    with pytest.raises(RuntimeError, match=r"status 1: ZeroDivisionError"):
        run_process([sys.executable, "-c", "1 / 0"])


def test_modules_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards folders of photos that contain Python files with the names of modules."""
    (tmp_path / "json.py").write_text("raise SystemExit('was run')")
    monkeypatch.chdir(tmp_path)
    assert run_process([*Plan().command[:-1], "import json"]).seconds > 0


def test_the_report_has_every_part(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the JSON schema: nothing requested is missing, what cannot run is listed, and no source is needed."""
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    progress: list[tuple[str, int, int]] = []
    plan = Plan(threads=(1, 2), batch=(1, 3), device="cpu", rounds=1, starts=1)
    report = run(plan, lambda *now: progress.append(now))
    stages = {(row.name, row.threads) for row in report.rows if row.group == "stage"}
    names = ("read", "detect", "keypoints", "emotion", "whole", "track")
    assert stages == {(name, threads) for name in names for threads in (1, 2)}
    networks = {(row.name, row.file, row.threads, row.batch) for row in report.rows if row.group == "network"}
    models = {model.name: [key for key in model.files if key.endswith(".onnx")] for model in load_models(shipped())}
    assert networks == {(m, f, t, b) for m, files in models.items() for f in files for t in (1, 2) for b in (1, 3)}
    assert [skipped.partition(":")[0] for skipped in report.skipped] == [f"{m}.int8.tflite on cpu" for m in models]
    assert (report.faces, report.picture, report.sources) == (1.0, (375, 450), ("drawn face",))
    (cold,) = (row for row in report.rows if row.group == "process")
    assert (cold.name, cold.ms.count) == ("cold start", 1)
    found = json.loads(json.dumps(report.as_json()))
    assert found["schema"] == SCHEMA
    assert set(found) == {
        *("schema", "facexp", "machine", "sources", "picture", "faces", "rows", "peak_mb", "cold_mb", "cold_cpu_ms"),
        "skipped",
    }
    for row in found["rows"]:
        assert set(row) == {"group", "name", "file", "device", "threads", "batch", "ms"}
        assert set(row["ms"]) == {"count", "least", "p50", "p90", "p99"}
        assert row["device"] == "cpu"
        assert 0 < row["ms"]["least"] <= row["ms"]["p50"] <= row["ms"]["p90"] <= row["ms"]["p99"]
    text = table(report)
    assert all(name in text for name in (*names, *models["keypoints"], *models["emotion"], "cold start"))
    assert {what for what, _, _ in progress} == {"stages", "networks", "cold start"}
    assert all(0 <= done <= total for _, done, total in progress)


def test_the_given_sources_are_measured(tmp_path: Path, astronaut: Any, tiny_bundle: Path) -> None:
    """Guards the user's own photos and clips, and the reported number of faces in them."""
    cv2.imwrite(str(tmp_path / "a.png"), astronaut)
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((80, 90, 3), np.uint8))
    plan = Plan((str(tmp_path),), batch=(1,), device="cpu", bundle=tiny_bundle, rounds=2, starts=0)
    report = run(plan)
    assert (report.faces, report.picture, report.cold_mb) == (0.5, (512, 512), None)
    assert report.skipped == ()


def test_the_cold_start_is_that_of_the_given_bundle(own_bundle: Path) -> None:
    """Guards against the cold start of the shipped bundle in the report of another one."""
    show = (sys.executable, "-c", "import sys; sys.exit(' '.join(sys.argv[1:-1]) or 'none')")
    plan = Plan(batch=(1,), device="cpu", bundle=own_bundle, rounds=1, starts=1, command=show)
    assert f"cold start: {sys.executable} ended with status 1: --bundle {own_bundle}" in run(plan).skipped
    (own_bundle / "manifest.json").write_text("{}")
    with pytest.raises(RuntimeError, match=r"manifest\.json"):
        run_process([*Plan().command, "--bundle", str(own_bundle), "photo.jpg"])


def test_a_command_that_cannot_be_started_is_listed() -> None:
    """Guards: a command that is not installed does not lose everything else that was measured."""
    plan = Plan(batch=(1,), device="cpu", rounds=1, starts=1, command=("facexp-gone",))
    assert any("facexp-gone" in reason for reason in run(plan).skipped)


@pytest.mark.parametrize(
    ("name", "message"),
    [("gone.jpg", "no such file"), ("text.jpg", "is not a photo"), ("0", "cameras, streams and pipes")],
)
def test_a_broken_source_is_a_clear_error(tmp_path: Path, name: str, message: str) -> None:
    """Guards against times of nothing: the error comes before anything is measured."""
    (tmp_path / "text.jpg").write_text("hello")
    source = name if name == "0" else str(tmp_path / name)
    with pytest.raises(facexp.SourceError, match=message):
        run(Plan((source,), starts=0))


def test_invalid_plans_are_refused() -> None:
    """Guards against plans without rounds or threads."""
    for wrong in ({"rounds": 0}, {"threads": ()}, {"batch": (1, 0)}, {"starts": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            Plan(**wrong)
