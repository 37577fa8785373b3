"""The group `facexp`: its commands, what they import, their exit status, and errors of the environment."""

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

UNUSED = ("tqdm", "importlib.metadata", "facexp_cli.many", "facexp.many", "facexp.sinks.preview", "PIL", "matplotlib")
"""Modules that are not needed to analyse a photo and write the result to standard output."""
HEAVY = ("tensorflow", "keras", "pandas", "sklearn", "matplotlib", "skimage", "cv2", "onnxruntime", "facexp.analyzer")
"""Modules that are slow to import or missing in a base install."""

PRINT_LOADED = """
import sys
from facexp_cli.main import {script}
try:
    {script}()
finally:
    print([name for name in {names!r} if name in sys.modules], file=sys.stderr)
"""
"""Code that runs a console script with the process's arguments and prints which of the modules it has loaded."""

LOG_AN_ERROR = """
import logging
import click
from facexp_cli.console import notes, quiet_libraries
from facexp_cli.main import _run_and_exit
def work():
    with quiet_libraries({quiet}), notes(logging.INFO):
        logging.getLogger("facexp").error("of a request", exc_info=ValueError())
    return 7
_run_and_exit(lambda: click.Command("x", callback=work), "x")
"""
"""Code of a command that logs an error with a traceback and ends with status 7."""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "100"})


def test_help_lists_every_command() -> None:
    """Guards against a command that is missing in the overview."""
    result = CliRunner().invoke(main.cli, ["--help"])
    assert result.exit_code == 0
    for name in main.COMMANDS:
        assert f"\n  {name} " in result.output


@pytest.mark.parametrize("command", ["", *main.COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    """Guards against a slow --help, and one that fails in a base install, where most of these are missing."""
    result = run(PRINT_LOADED.format(script="main", names=HEAVY), *command.split(), "--help")
    assert result.returncode == 0
    assert result.stdout.startswith(f"Usage: facexp{' ' * bool(command)}{command} [OPTIONS]")
    assert result.stderr == "[]\n"


def test_analysing_a_photo_imports_nothing_that_it_does_not_need(tiny_bundle: Path, tmp_path: Path) -> None:
    """Guards against a slow start: importing the progress bar alone takes longer than analysing a photo."""
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), np.full((64, 64, 3), 90, np.uint8))
    result = run(PRINT_LOADED.format(script="infer_main", names=UNUSED), str(photo), "--bundle", str(tiny_bundle))
    assert result.returncode == 0
    assert '"faces"' in result.stdout
    assert result.stderr == "[]\n"


def test_facexp_infer_is_the_command_infer() -> None:
    """Guards against two commands that drift apart."""
    assert main.cli.get_command(click.Context(main.cli), "infer") is infer


def _commands(command: click.Command) -> list[click.Command]:
    """Return a command and, recursively, its subcommands."""
    names = command.list_commands(click.Context(command)) if isinstance(command, click.Group) else []
    found = [command.get_command(click.Context(command), name) for name in names]
    return [command, *(each for one in found if one is not None for each in _commands(one))]


def test_an_empty_path_is_refused() -> None:
    """Guards against `--save "$OUT"` with an unset variable, which pathlib turns into the current directory."""
    paths = [each for command in _commands(main.cli) for each in command.params if isinstance(each.type, click.Path)]
    assert len(paths) > 20
    for parameter in paths:
        with pytest.raises(click.BadParameter):
            parameter.type.convert("", parameter, None)


def test_a_missing_module_is_reported_in_one_line() -> None:
    """Guards against a traceback in a base install: `facexp train` with any options says what to install, status 1."""
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
    """Guards against a message without the install command, in every command that needs an extra."""
    extras.require("cpu", "sys", "numpy")
    with pytest.raises(click.ClickException) as caught:
        extras.require("train", "numpy", "no_such_module")
    assert caught.value.message == 'no_such_module is not installed: pip install "facexp[train]"'
    # find_spec raises an error if the package that contains the module is missing
    with pytest.raises(click.ClickException, match=r"no_such_package\.module is not installed"):
        extras.require("serve", "no_such_package.module")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--no-such-flag"], 2, "No such option"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["infer"], 2, "Missing argument 'SOURCE...'"),
        (["infer", "--help"], 0, ""),
        (["--version"], 0, ""),
        ([], 2, "Usage: facexp"),
    ],
)
def test_exit_status_of_the_group(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards against other statuses and messages of the group itself."""
    monkeypatch.setattr(sys, "argv", ["facexp", *arguments])
    with pytest.raises(SystemExit) as caught:
        main.main()
    assert caught.value.code == status
    assert message in capsys.readouterr().err


def test_ctrl_c_outside_a_run_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against status 1, which click alone would give, in commands that do not handle Ctrl-C themselves."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["facexp"])
    with pytest.raises(SystemExit) as caught:
        main._run_and_exit(lambda: click.Command("x", callback=interrupted), "x")
    assert caught.value.code == 130


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("ImportError('libGL.so.1: cannot open')", "Error: libGL.so.1: cannot open: run facexp doctor to find a fix\n"),
        ("OSError(28, 'No space left')", "Traceback"),
        ("ZeroDivisionError()", "Traceback"),
    ],
)
def test_an_unexpected_error_is_status_1(error: str, message: str) -> None:
    """Guards against a traceback for a broken library, and against hiding the traceback of a fault in facexp."""
    code = f"""
import click
from facexp_cli.main import _run_and_exit
def fail():
    raise {error}
_run_and_exit(lambda: click.Command("x", callback=fail), "x")
"""
    result = run(code)
    assert result.returncode == 1
    assert result.stderr.startswith(message)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("command", [["--help"], ["doctor"], ["infer", "--version"]])
def test_a_full_disk_behind_standard_output_is_reported_in_one_line(command: list[str]) -> None:
    """Guards against a traceback in commands that print their output themselves."""
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
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import sys; sys.argv[1:] = ['--every', 'x', 'y']; from facexp_cli.main import infer_main; infer_main()", 2),
        (LOG_AN_ERROR.format(quiet=False), 7),
        (LOG_AN_ERROR.format(quiet=True), 7),
    ],
)
def test_a_full_disk_behind_standard_error_keeps_the_exit_status(code: str, status: int, unbuffered: str) -> None:
    """Guards against another exit status, and a server that fails, if a message cannot be written."""
    with Path("/dev/full").open("w") as full:
        environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run([sys.executable, "-c", code], stderr=full, env=environment, timeout=60)
    assert done.returncode == status


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors")
def test_closed_standard_streams() -> None:
    """Guards against `facexp ... >&- 2>&-` writing messages into a file it has opened, and another exit status."""
    code = """
import os
import sys
import click
from facexp_cli.main import _run_and_exit
def work():
    print("x", flush=True)
    print("y", file=sys.stderr, flush=True)
    assert os.open(os.devnull, os.O_RDONLY) > 2
    raise click.ClickException("z")
os.closerange(0, 3)
sys.stdin = sys.stdout = sys.stderr = None
_run_and_exit(lambda: click.Command("x", callback=work), "x")
"""
    assert run(code).returncode == 1
    assert run(code.replace("raise click", "click")).returncode == 0


def test_demo(tmp_path: Path, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against a README whose first command fails: the face is found, printed and drawn, and the file named."""
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
    """Guards against a traceback if scikit-image is missing."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "skimage" else real(name))
    result = CliRunner().invoke(main.cli, ["demo"])
    assert result.exit_code == 1
    assert result.stderr == 'Error: scikit-image is not installed: pip install "facexp[demo]"\n'


def test_a_hanging_thread_does_not_delay_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards against an exit that waits for a camera's thread or aborts, as Python's own exit could."""
    ended: list[int] = []
    monkeypatch.setattr(sys, "argv", ["facexp-infer", "--mistyped"])
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr("facexp.sources.live.hangs", lambda: True)
    with pytest.raises(SystemExit):
        main.infer_main()
    assert ended == [2]
