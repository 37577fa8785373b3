"""Whole jobs on Ray give the rows of the plain run, whatever happens to a worker or to the job."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ray = pytest.importorskip("ray", reason='RAY NOT TESTED: pip install "facexp[ray]"')
pq = pytest.importorskip("pyarrow.parquet", reason='RAY NOT TESTED: pip install "facexp[ray]"')

import facexp.many.job  # noqa: E402
from facexp.many import ManyError, ManyImages, Part, Settings  # noqa: E402
from facexp.many.worker import Worker  # noqa: E402
from facexp_cli.infer import infer  # noqa: E402
from result_rows import read_rows  # noqa: E402


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    """Ray on two cores, shared by all tests, as its start takes most of the time."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray starts its workers at a low priority, which costs minutes on a busy machine
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    memory = 128 << 20
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=memory, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return replace(settings, face_crops=True)


def worker_pid(part: Part) -> int:
    return int(part.worker.rpartition("/")[2])


@pytest.mark.slow
def test_the_command_gives_the_rows_of_the_plain_run(
    session: None, crops: Path, plain: list[dict[str, Any]], tiny_bundle: Path, tmp_path: Path
) -> None:
    """Guards all fields but timings, errors as rows and lines, the exit status, and an empty standard output."""
    arguments = [str(crops), "--face-crops", "--bundle", str(tiny_bundle), "--engine", "ray"]
    arguments += ["--out", str(tmp_path / "out.parquet"), "--workers", "2"]
    result = CliRunner().invoke(infer, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert read_rows(tmp_path / "out.parquet") == plain
    errors = sorted(line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert errors == sorted(f"Error: {row['error']}" for row in plain if "error" in row)
    assert len(errors) == 2
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.num_rows == len(plain)
    # the job is done: --resume finds nothing left to do
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out.parquet").glob("*.parquet")}
    again = CliRunner().invoke(infer, [*arguments, "--resume"])
    assert again.exit_code == 1
    assert again.stderr.splitlines() == [
        f"Note: {len(plain)} of {len(plain)} sources are done already",
        "Note: 2 of these could not be read: the column error says why",
    ]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out.parquet").glob("*.parquet")} == before


def test_a_missing_gpu_is_an_error(session: None, crops: Path, settings: Settings, tmp_path: Path) -> None:
    """Guards against a job that waits indefinitely for workers that can never start."""
    with pytest.raises(ManyError, match="no worker can have"):
        list(ManyImages([str(crops)], tmp_path / "out", settings).run(2, 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_neither_loses_nor_duplicates_rows(
    session: None,
    crops: Path,
    plain: list[dict[str, Any]],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    """Guards Ray's retries: a worker is killed in the middle of a part, and another one does that part."""
    killed = tmp_path / "killed"

    class KilledOnce(Worker):
        def _records(self, analyzer: Any, source: Any) -> Any:
            if source.name.endswith("/90.png") and not killed.exists():
                killed.write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._records(analyzer, source)

    monkeypatch.setattr(facexp.many.job, "Worker", KilledOnce)
    parts = list(ManyImages([str(crops)], tmp_path / "out", settings).run(workers))
    assert read_rows(tmp_path / "out") == plain
    assert sum(part.sources for part in parts) == len(plain)
    assert {worker_pid(part) for part in parts} - {int(killed.read_text())}
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet") == ["_SUCCESS"]


@pytest.mark.slow
def test_a_picture_that_crashes_its_worker_becomes_a_row(
    session: None,
    crops: Path,
    plain: list[dict[str, Any]],
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Guards the job against a file that crashes a decoder: after some attempts the others have their rows."""

    class Crashing(Worker):
        def _records(self, analyzer: Any, source: Any) -> Any:
            if source.name.endswith("/7.png") and source.problem is None:
                os._exit(1)
            return super()._records(analyzer, source)

    monkeypatch.setattr(facexp.many.job, "Worker", Crashing)
    names = [str(crops / f"{number}.png") for number in range(12)]
    parts = list(ManyImages(names, tmp_path / "out", settings).run(1))
    rows = read_rows(tmp_path / "out")
    assert [row for row in rows if row["source"] != names[7]] == [
        row for row in plain if row["source"] in names and row["source"] != names[7]
    ]
    assert rows[7]["error"] == f"{names[7]}: crashes the process that analyses it"
    assert len({part.worker for part in parts}) > 1


@pytest.mark.slow
def test_a_resumed_job_does_only_what_is_missing(
    session: None, crops: Path, plain: list[dict[str, Any]], settings: Settings, tmp_path: Path
) -> None:
    """Guards --resume: finished parts stay as they are, half-written ones are removed, each row is there once."""
    out = tmp_path / "out"
    job = ManyImages([str(crops)], out, settings)
    running = job.run(2)
    for _ in range(3):
        next(running)
    running.close()
    done = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    (out / ".part-000099-0a1b2c3d.parquet-1").write_bytes(b"PAR1")
    # one part is lost, so that something is missing in the middle, too
    lost = sorted(done)[1]
    lost.unlink()
    assert not (out / "_SUCCESS").exists()
    again = ManyImages([str(crops)], out, settings, resume=True)
    assert 0 < again.left < again.total == len(plain)
    assert sum(part.sources for part in again.run(2)) == again.left
    assert sorted(read_rows(out), key=lambda row: row["source"]) == sorted(plain, key=lambda row: row["source"])
    assert {path: path.stat().st_mtime_ns for path in done if path != lost} == {
        path: time for path, time in done.items() if path != lost
    }
    assert not list(out.glob(".*"))
