"""`facexp doctor`: text for people, JSON for machines, and an exit status that a script can use."""

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
    """Guards the status: 3 for a fault alone, and the one object with the same findings."""
    monkeypatch.setattr(doctor, "examine", lambda bundle: Diagnosis(findings))
    result = CliRunner().invoke(main.cli, ["doctor", "--json"])
    assert result.exit_code == status
    assert json.loads(result.stdout) == {
        "schema": 1,
        "faults": len(findings) - 2,
        "findings": [{"name": f.name, "state": f.state, "what": f.what, "fix": f.fix} for f in findings],
    }


def test_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Guards the columns, the command on a line of its own, and that --bundle arrives."""
    asked = []
    monkeypatch.setattr(doctor, "examine", lambda bundle: asked.append(bundle) or Diagnosis((SOUND, BROKEN, NOTE)))
    result = CliRunner().invoke(main.cli, ["doctor", "--bundle", str(tmp_path)])
    assert asked == [tmp_path]
    assert result.stdout == (
        "ok     Python       3.11.7\n"
        "fault  onnxruntime  cannot be imported\n"
        "                    fix: pip install onnxruntime\n"
        "note   cameras      none\n"
        "1 fault\n"
    )


@pytest.mark.parametrize(
    ("gone", "name", "needing"),
    [("cv2", "OpenCV", "models"), ("numpy", "numpy", "the rest"), ("onnxruntime", "onnxruntime", "CPU")],
)
def test_a_broken_installation_is_still_examined(tiny_bundle: Path, gone: str, name: str, needing: str) -> None:
    """Guards against a doctor that falls ill itself: a finding for what is broken, notes for what needs it."""
    code = f"""
import sys
sys.modules[{gone!r}] = None
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
    assert names[needing]["state"] == "note"
