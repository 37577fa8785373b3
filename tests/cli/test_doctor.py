"""`facexp doctor`: text for people, JSON for programs, and an exit status for scripts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from facexp import doctor
from facexp.doctor import Diagnosis, Finding
from facexp_cli import main

SOUND = Finding("Python", "ok", "3.11.7")
BROKEN = Finding("onnxruntime", "fault", "cannot be imported", "pip install onnxruntime")
NOTE = Finding("cameras", "note", "none")


@pytest.mark.parametrize(("findings", "status"), [((SOUND, NOTE), 0), ((SOUND, BROKEN, NOTE), 3)])
def test_exit_status_and_json(monkeypatch: pytest.MonkeyPatch, findings: tuple[Finding, ...], status: int) -> None:
    """Guards against a status other than 3 for a fault and 0 for none, and JSON with other findings."""
    monkeypatch.setattr(doctor, "examine", lambda bundle: Diagnosis(findings))
    result = CliRunner().invoke(main.cli, ["doctor", "--json"])
    assert result.exit_code == status
    assert json.loads(result.stdout) == {
        "schema": 2,
        "faults": len(findings) - 2,
        "findings": [{"name": f.name, "state": f.state, "what": f.what, "fix": f.fix} for f in findings],
    }


def test_text_lists_the_findings_in_columns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards against wrong columns, a fix that is not on its own line, and --bundle being ignored."""
    bundles = []
    monkeypatch.setattr(doctor, "examine", lambda bundle: bundles.append(bundle) or Diagnosis((SOUND, BROKEN, NOTE)))
    result = CliRunner().invoke(main.cli, ["doctor", "--bundle", str(tmp_path)])
    assert bundles == [tmp_path]
    assert result.stdout == (
        "ok     Python       3.11.7\n"
        "fault  onnxruntime  cannot be imported\n"
        "                    fix: pip install onnxruntime\n"
        "note   cameras      none\n"
        "1 fault\n"
    )


@pytest.mark.parametrize(
    ("missing", "name", "dependent"),
    [("cv2", "OpenCV", "models"), ("numpy", "numpy", "the rest"), ("onnxruntime", "onnxruntime", "CPU")],
)
def test_a_broken_installation_is_still_examined(tiny_bundle: Path, missing: str, name: str, dependent: str) -> None:
    """Guards against a doctor that crashes: a missing package is a fault, and checks that need it become notes."""
    code = f"""
import sys
sys.modules[{missing!r}] = None
from facexp_cli.main import main
sys.argv = ["facexp", "doctor", "--json", "--bundle", {str(tiny_bundle)!r}]
try:
    main()
finally:
    print([name for name in ("tensorflow", "keras", "pandas", "onnx") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (3, "[]\n")
    names = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert names[name]["state"] == "fault"
    assert names[name]["fix"]
    assert names[dependent]["state"] == "note"
