"""The files in deploy, checked without building an image: what they refer to exists and works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from facexp_cli.serve import serve_command
from serving_process import serving

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CONTAINERS = sorted(DEPLOY.glob("*.Containerfile"))


def steps(path: Path) -> list[tuple[str, str]]:
    """Return the instructions of a container file as (name, arguments), with continued lines joined."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def arguments_of(path: Path, name: str) -> list[str]:
    """Return the arguments of each instruction with that name."""
    return [rest.strip() for each, rest in steps(path) if each == name]


def ports() -> list[str]:
    """Return the default ports of `facexp serve`: gRPC, REST."""
    defaults = {option.name: option.default for option in serve_command.params if isinstance(option, click.Option)}
    return [str(defaults["grpc_port"]), str(defaults["rest_port"])]


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_a_container_file_is_valid(path: Path) -> None:
    """Guards against unknown instructions, ports that are not the server's, and base images without a fixed version."""
    known = {"FROM", "COPY", "RUN", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
    assert {name for name, _ in steps(path)} <= known
    assert steps(path)[0][0] == "FROM"
    assert all(re.search(r":\d+\.\d+", image) for image in arguments_of(path, "FROM"))
    assert [rest.split() for rest in arguments_of(path, "EXPOSE")] == [ports()]
    # a JSON list runs without a shell, so that the signal reaches the server
    (entry,) = arguments_of(path, "ENTRYPOINT")
    assert all(isinstance(each, str) for each in json.loads(entry))
    assert arguments_of(path, "STOPSIGNAL") == ["SIGTERM"]


def test_the_facexp_container_copies_only_what_its_commands_build() -> None:
    """Guards against a COPY of files that no build stage or documented command makes, and against a root user."""
    path = DEPLOY / "facexp-serve.Containerfile"
    (command,) = re.findall(
        r"^#   rm -rf dist && (python -m build .*) && docker build -f (\S+) .* \.$", path.read_text(), re.MULTILINE
    )
    assert command == ("python -m build --wheel", "deploy/facexp-serve.Containerfile")
    stages = re.findall(r"AS (\S+)", "\n".join(arguments_of(path, "FROM")))
    sources = [rest.split() for rest in arguments_of(path, "COPY")]
    assert sources == [["dist/*.whl", "/tmp/"], [f"--from={stages[0]}", "/opt/facexp", "/opt/facexp"]]
    (user,) = arguments_of(path, "USER")
    assert all(int(number) >= 1000 for number in user.split(":"))
    assert [name for name, _ in steps(path)].index("USER") < [name for name, _ in steps(path)].index("ENTRYPOINT")
    extras = re.search(r"facexp\[(.*?)\]", " ".join(arguments_of(path, "RUN")))
    assert extras is not None
    assert set(extras[1].split(",")) == {"cpu", "serve"}


def test_the_tensorflow_serving_container_copies_only_what_the_export_writes() -> None:
    """Guards against folders that the export does not write, and a models.config other than that of docs/serving.md."""
    path = DEPLOY / "tensorflow-serving.Containerfile"
    copies = dict(rest.split() for rest in arguments_of(path, "COPY"))
    assert copies == {f"models/{name}": f"/models/{name}" for name in ("keypoints", "emotion", "models.config")}
    (config,) = re.findall(
        r"cat > models/models.config <<'END'\n(.*?)END\n", (ROOT / "docs/serving.md").read_text(), re.S
    )
    assert re.findall(r'name: "(\w+)" base_path: "(\S+)"', config) == [
        (name, copies[f"models/{name}"]) for name in ("keypoints", "emotion")
    ]
    entry = json.loads(arguments_of(path, "ENTRYPOINT")[0])
    assert {"--port=8500", "--rest_api_port=8501", f"--model_config_file={copies['models/models.config']}"} <= set(
        entry
    )


@pytest.mark.slow
def test_the_facexp_container_starts_and_passes_its_health_check(tiny_bundle: Path) -> None:
    """Runs both commands without a container; guards against a check that passes although the server has ended."""
    path = DEPLOY / "facexp-serve.Containerfile"
    program, command, *options = json.loads(arguments_of(path, "ENTRYPOINT")[0])
    assert (program, command) == ("facexp", "serve")
    (check,) = arguments_of(path, "HEALTHCHECK")
    python, *arguments = json.loads(check.partition("CMD ")[2])
    assert python == "python"
    text = " ".join(arguments)
    assert f"http://127.0.0.1:{ports()[1]}/" in text
    with serving(
        [*options, "--bundle", str(tiny_bundle)], FACEXP_TOKEN="a token of sixteen".replace(" ", "-")
    ) as process:
        address = "http://127.0.0.1:" + process.rest.rpartition(":")[2]
        check_command = [each.replace(f"http://127.0.0.1:{ports()[1]}", address) for each in arguments]
        assert subprocess.run([sys.executable, *check_command], timeout=60).returncode == 0
        status, _ = process.end()
    assert status == 0
    assert subprocess.run([sys.executable, *check_command], timeout=60, capture_output=True).returncode != 0


def test_the_systemd_unit_is_valid(tmp_path: Path) -> None:
    """Guards against settings that systemd refuses, and a stop timeout that cuts off the server's last responses."""
    unit = (DEPLOY / "facexp-serve.service").read_text()
    stop = int(re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[1])  # type: ignore[index]
    drain = next(option.default for option in serve_command.params if option.name == "drain")
    assert stop > drain
    # 1 GB of memory is enough for this limit, in the unit as in docs/serving.md
    (run,) = re.findall(
        r"^docker run .*?--memory 1g.*?^```", (ROOT / "docs/serving.md").read_text(), re.MULTILINE | re.S
    )
    assert "\nMemoryMax=1G\n" in unit
    assert all("--max-pixels 25" in command for command in (unit, run))
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("NO SYSTEMD UNIT TESTED: there is no systemd-analyze on this machine")
    # `systemd-analyze verify` checks that the program exists
    program = tmp_path / "facexp"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    copy = tmp_path / "facexp-serve.service"
    copy.write_text(unit.replace("/opt/facexp/bin/facexp", str(program)))
    done = subprocess.run([tool, "verify", str(copy)], capture_output=True, text=True, timeout=60)
    messages = [line for line in done.stderr.splitlines() if "facexp" in line]
    assert (done.returncode, messages) == (0, [])
