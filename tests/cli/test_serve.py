"""`facexp serve` as a program: its messages, how it ends, and its token."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import signal
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("grpc", reason="NO SERVER TESTED: it comes with the extra `serve`")

from facexp_cli.serve import serve_command
from serving_process import serving

ROOT = Path(__file__).parents[2]
TOKEN = "correct-horse-battery"
_PNG = cv2.imencode(".png", np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))[1].tobytes()
DAMAGED = _PNG[:5000] + bytes(100) + _PNG[5100:]


def get(address: str, **headers: str) -> Any:
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        return json.load(answer)


def predict_faces(address: str, file: bytes) -> Any:
    body = json.dumps({"instances": [{"b64": base64.b64encode(file).decode()}]}).encode()
    with urllib.request.urlopen(f"{address}/v1/models/faces:predict", body, timeout=60) as answer:
        return json.load(answer)["predictions"][0]


def run(*arguments: str, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(serve_command, [*arguments, "--rest-port", "0", "--grpc-port", "0"], env=environment)
    return done.exit_code, done.output.strip().splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_runs_until_a_signal(tiny_bundle: Path, number: int) -> None:
    """Guards against other messages after the start, a status other than 0, and a port that stays open."""
    with serving(["--bundle", str(tiny_bundle)]) as process:
        status = get(f"{process.rest}/v1/models/faces")["model_version_status"][0]
        assert (status["version"], status["state"]) == ("1", "AVAILABLE")
        assert process.startup_lines[0] == "Note: version 1 answers: tiny 0.0.1\n"
        # libpng must not write a message of its own between those of the server
        assert "damaged" in predict_faces(process.rest, DAMAGED)["error"]
        code, messages = process.end(number)
        assert (code, messages) == (0, "Note: stopping: accepted requests are still answered\n")
        host, _, port = process.rest.removeprefix("http://").rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=60)


def test_a_hanging_thread_does_not_delay_the_end(tiny_bundle: Path, tmp_path: Path) -> None:
    """Guards against a process that outlives --drain because a thread still works, and a status other than 0."""
    hang = "lambda *_: (time.sleep(20), print('it was waited for', file=sys.stderr))"
    code = f"import sys, time\nimport facexp.server.models\nfacexp.server.models.read_picture = {hang}\n"
    (tmp_path / "sitecustomize.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    with (
        ThreadPoolExecutor(1) as pool,
        serving(["--bundle", str(tiny_bundle), "--drain", "0.1"], PYTHONPATH=path) as process,
    ):
        response = pool.submit(predict_faces, process.rest, _PNG)
        under_way = b'facexp_requests_under_way{model="faces"} 1.0'
        while under_way not in urllib.request.urlopen(f"{process.rest}/metrics", timeout=60).read():
            assert not response.done()
        code, messages = process.end()
        assert (code, messages.splitlines()[1:]) == (0, ["Note: requests accepted but not answered within 0.1 s: 1"])
        with pytest.raises(urllib.error.HTTPError, match="503"):
            response.result(60)


def test_a_token_from_the_environment_is_required_and_never_shown(tiny_bundle: Path) -> None:
    """Guards against requests without the token, the token in messages, and no warning that traffic is unencrypted."""
    with serving(["--bundle", str(tiny_bundle), "--host", "0.0.0.0"], FACEXP_TOKEN=TOKEN) as process:
        address = f"{process.rest.replace('0.0.0.0', '127.0.0.1')}/v1/models/faces"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(address)
        assert get(address, Authorization=f"Bearer {TOKEN}")["model_version_status"]
        _, messages = process.end()
        assert messages.startswith("Warning: the token and the pictures cross the network unencrypted")
        assert TOKEN not in messages + "".join(process.startup_lines)


def test_unsafe_or_incomplete_settings_are_refused(tmp_path: Path, tiny_bundle: Path) -> None:
    """Guards against a server open to the network without a token, and errors that do not say what to do."""
    bundle = ("--bundle", str(tiny_bundle))
    status, message = run(*bundle, "--host", "0.0.0.0")
    assert (status, message.startswith("Error: 0.0.0.0 can be reached from other machines: give a token")) == (1, True)
    assert run(*bundle, FACEXP_TOKEN="short")[1].startswith("Error: the token has 5 characters")
    status, message = run(*bundle, "--token-file", str(tmp_path / "none"))
    assert (status, "the token cannot be read" in message) == (1, True)
    status, message = run(*bundle, "--tls-cert", "cert.pem")
    assert (status, message) == (2, "Error: --tls-cert and --tls-key belong together, and --tls-clients needs both")
    status, message = run("--bundle", str(tmp_path))
    assert (status, "no version folder" in message) == (1, True)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--threads", "99999999999999"),
        ("--queue", "99999999999999999999"),
        *((option, "nan") for option in ("--max-pixels", "--timeout", "--drain", "--batch-wait", "--min-score")),
        ("--min-face", "inf"),
    ],
)
def test_invalid_numbers_are_wrong_usage(option: str, value: str) -> None:
    """Guards against a limit that never applies, or a traceback, instead of a usage error that names the option."""
    status, message = run(option, value)
    assert (status, message.startswith(f"Error: Invalid value for '{option}': {value} is not ")) == (2, True), message


def command_lines() -> list[str]:
    """Return what follows `facexp serve` in the README, docs and deploy, wherever it is a command line."""
    texts = [
        file.read_text() for file in (ROOT / "README.md", ROOT / "docs" / "serving.md", *(ROOT / "deploy").iterdir())
    ]
    lines = re.findall(r"^[^`\n]*facexp serve((?: +--[^#\n]*)?)(?: *#.*)?$", "\n".join(texts), re.MULTILINE)
    entry = json.loads(
        re.search(r"^ENTRYPOINT (.*)$", (ROOT / "deploy" / "facexp-serve.Containerfile").read_text(), re.M)[1]
    )  # type: ignore[index]
    return [*lines, " ".join(entry[2:])]


def test_command_lines_in_the_documents_are_valid() -> None:
    """Guards against options or values in the README, docs and deploy that the command does not accept."""
    lines = command_lines()
    assert len([line for line in lines if "--" in line]) >= 6
    for line in lines:
        arguments = shlex.split(line.replace("...", "x"))
        # the folders of the examples do not exist
        for name in ("models", "versions", "/srv/facexp"):
            arguments = [str(ROOT) if each == name else each for each in arguments]
        serve_command.make_context("serve", arguments)
