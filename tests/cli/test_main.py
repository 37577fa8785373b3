"""The group `facexp`: every command listed, nothing heavy imported, one line for what is missing."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import facexp
from facexp_cli import extras, main
from facexp_cli.infer import infer

UNSEEN = ("tqdm", "importlib.metadata", "facexp_cli.many", "facexp.many", "facexp.sinks.preview", "PIL", "matplotlib")
"""What a photo's analysis with the results on standard output has no use for."""
HEAVY = ("tensorflow", "keras", "pandas", "sklearn", "matplotlib", "skimage", "cv2", "onnxruntime", "facexp.analyzer")

LOADED = """
import sys
from facexp_cli.main import {script}
try:
    {script}()
finally:
    print([name for name in {names!r} if name in sys.modules], file=sys.stderr)
"""
"""Runs a console script with the process's arguments, and says which of the modules it has loaded."""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "100"})


def test_help_lists_every_command() -> None:
    """Guards the overview: each command with its one line."""
    result = CliRunner().invoke(main.cli, ["--help"])
    assert result.exit_code == 0
    for name in main.COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("command", ["", *main.COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    """Guards a fast --help, and a base install in which most of these are missing."""
    result = run(LOADED.format(script="main", names=HEAVY), *command.split(), "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: facexp{' ' * bool(command)}{command} [OPTIONS]")
    assert result.stderr == "[]\n"


def test_a_photo_waits_for_nothing_that_it_does_not_need(tiny_bundle: Path, tmp_path: Path) -> None:
    """Guards a quick start: a progress bar alone takes longer to import than a photo to analyse."""
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.full((64, 64, 3), 90, np.uint8))
    result = run(LOADED.format(script="infer_main", names=UNSEEN), str(photo), "--bundle", str(tiny_bundle))
    assert result.returncode == 0
    assert '"faces"' in result.stdout
    assert result.stderr == "[]\n"


def test_facexp_infer_is_the_same_command() -> None:
    """Guards against two commands that drift apart."""
    assert main.cli.get_command(click.Context(main.cli), "infer") is infer


def _every(command: click.Command) -> list[click.Command]:
    below = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []
    found = [command.get_command(click.Context(command), name) for name in below]
    return [command, *(each for one in found if one is not None for each in _every(one))]


def test_an_empty_name_is_no_folder() -> None:
    """Guards `--save "$OUT"` with an unset variable, of which pathlib makes the current directory."""
    given = [each for command in _every(main.cli) for each in command.params if isinstance(each.type, click.Path)]
    assert len(given) > 20
    for parameter in given:
        with pytest.raises(click.BadParameter):
            parameter.type.convert("", parameter, None)


def test_a_missing_module_is_one_line() -> None:
    """Guards the base install: `facexp train` says what to install, with any options behind it, and status 1."""
    code = """
import sys
sys.modules["facexp_cli.train"] = None
from facexp_cli.main import main
sys.argv = ["facexp", "train", "keypoints", "data.csv", "--out", "runs/k1"]
main()
"""
    result = run(code)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == 'Error: facexp_cli.train is not installed: pip install "facexp[train]"\n'


def test_require_names_the_extra() -> None:
    """Guards the line that every command of an extra uses."""
    extras.require("cpu", "sys", "numpy")
    with pytest.raises(click.ClickException) as caught:
        extras.require("train", "numpy", "no_such_module")
    assert caught.value.message == 'no_such_module is not installed: pip install "facexp[train]"'
    # find_spec raises where the package is missing that the module is in
    with pytest.raises(click.ClickException, match=r"no_such_package\.module is not installed"):
        extras.require("serve", "no_such_package.module")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--no-such-flag"], 2, "No such option"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["infer"], 2, "Missing argument 'SOURCE...'"),
        (["infer", "--help"], 0, ""),
        (["--version"], 0, ""),
        ([], 2, "Usage: facexp"),
    ],
)
def test_exit_status(
    arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the statuses that the group itself gives."""
    monkeypatch.setattr(sys, "argv", ["facexp", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == status
    assert said in capsys.readouterr().err


def test_ctrl_c_outside_a_run_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards Ctrl-C in the commands that do not handle it themselves: click alone would say 1."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["facexp"])
    with pytest.raises(SystemExit) as caught:
        main._end(lambda: click.Command("x", callback=interrupted), "x")
    assert caught.value.code == 130


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("ImportError('libGL.so.1: cannot open')", "Error: libGL.so.1: cannot open: run facexp doctor to find a fix\n"),
        ("OSError(28, 'No space left')", "Traceback"),
        ("ZeroDivisionError()", "Traceback"),
    ],
)
def test_what_no_command_expects_is_status_1(error: str, said: str) -> None:
    """Guards broken libraries against a traceback; our own faults keep one."""
    code = f"""
import click
from facexp_cli.main import _end
def fail():
    raise {error}
_end(lambda: click.Command("x", callback=fail), "x")
"""
    result = run(code)
    assert result.returncode == 1
    assert result.stderr.startswith(said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", [["--help"], ["doctor"], ["infer", "--version"]])
def test_a_full_disk_behind_standard_output_is_one_line(command: list[str]) -> None:
    """Guards the commands that print by themselves."""
    code = "from facexp_cli.main import main; main()"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code, *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert (done.returncode, done.stderr) == (
        1,
        "Error: standard output cannot be written: No space left on device\n",
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.argv[1:] = ['--every', 'x', 'y']; from facexp_cli.main import infer_main; infer_main()", 2),
        (
            "import logging; from facexp_cli.console import notes\n"
            "with notes(logging.INFO): logging.getLogger('facexp').error('of a request', exc_info=ValueError())\n"
            "raise SystemExit(7)",
            7,
        ),
    ],
)
def test_a_full_disk_behind_standard_error_changes_nothing(code: str, status: int) -> None:
    """Guards the exit status, and a server whose log has no room left, against what cannot be told."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, timeout=60)
    assert done.returncode == status


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors")
def test_closed_streams() -> None:
    """Guards `facexp ... >&- 2>&-`: nothing ends in a file of ours, and the status is the command's own."""
    code = """
import os
import sys
import click
from facexp_cli.main import _end
def work():
    print("x", flush=True)
    print("y", file=sys.stderr, flush=True)
    assert os.open(os.devnull, os.O_RDONLY) > 2
    raise click.ClickException("z")
os.closerange(0, 3)
sys.stdin = sys.stdout = sys.stderr = None
_end(lambda: click.Command("x", callback=work), "x")
"""
    assert run(code).returncode == 1
    assert run(code.replace("raise click", "click")).returncode == 0


def test_demo(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the README's first command: the astronaut is found, printed and drawn, and the file is named."""
    pytest.importorskip("skimage", reason="the astronaut comes with scikit-image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(facexp, "Analyzer", partial(facexp.Analyzer, bundle=tiny_bundle))
    result = CliRunner().invoke(main.cli, ["demo"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith('{"schema": 2, "source": "astronaut.png", "frame": 0')
    assert result.stdout.count('"box"') == 1
    assert result.stderr == "Note: the annotated picture is facexp-demo.jpg\n"
    drawn = cv2.imread("facexp-demo.jpg")
    assert drawn is not None
    assert drawn.shape == (512, 512, 3)
    assert CliRunner().invoke(main.cli, ["demo", "--out", "deep/x.png"]).exit_code == 0
    assert cv2.imread("deep/x.png") is not None


def test_demo_without_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the line of a missing scikit-image."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else real(name))
    result = CliRunner().invoke(main.cli, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == 'Error: scikit-image is not installed: pip install "facexp[demo]"\n'


def test_a_thread_that_hangs_does_not_hold_the_end_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the exit status where a camera's thread is left: Python's own end could wait for it or abort."""
    ended: list[int] = []
    monkeypatch.setattr(sys, "argv", ["facexp-infer", "--mistyped"])
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("facexp.sources.live.hangs", lambda: True)
    with pytest.raises(SystemExit):
        main.infer_main()
    assert ended == [2]
