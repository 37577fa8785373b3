"""The whole job on a cluster of two machines, as far as one machine can be two: the rows of the plain run."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

ray = pytest.importorskip("ray", reason='NO CLUSTER TESTED: pip install "facexp[ray]"')
pytest.importorskip("pyarrow", reason='NO CLUSTER TESTED: pip install "facexp[ray]"')

from ray.cluster_utils import Cluster  # noqa: E402

import facexp.many.job  # noqa: E402
from facexp.analyzer import AnalyzerOptions  # noqa: E402
from facexp.many import ManyImages, Settings  # noqa: E402
from facexp.many.worker import Worker  # noqa: E402
from facexp_cli.infer import infer  # noqa: E402
from result_rows import read_rows  # noqa: E402

PATIENCE_S = 120.0
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
# how soon a dead node is missed; a living one has 10 s for each answer
HEALTH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each, in processes of their own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray lets all others go before its workers, which on a busy machine takes minutes
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": HEALTH})
    made.add_node(**NODE)
    yield made
    made.shutdown()


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A folder where each part leaves the name of the node that did it, once so many nodes have begun one.

    One node may be held in its first part.
    """

    def note(nodes: int, held: str | None = None) -> Path:
        folder = tmp_path / "places"
        folder.mkdir()

        class Placed(Worker):
            def _do(self, analyzer: Any, number: int, todo: Any) -> Any:
                node = ray.get_runtime_context().get_node_id()
                with (folder / node).open("a") as file:
                    file.write(f"{number}\n")
                end = time.monotonic() + PATIENCE_S
                while (node == held or len(list(folder.iterdir())) < nodes) and time.monotonic() < end:
                    time.sleep(0.05)
                return super()._do(analyzer, number, todo)

        monkeypatch.setattr(facexp.many.job, "Worker", Placed)
        return folder

    return note


def names(cluster: Any) -> set[str]:
    return {node.node_id for node in cluster.list_all_nodes()}


@pytest.mark.slow
def test_a_cluster_gives_the_rows_of_the_plain_run(
    cluster: Any,
    crops: Path,
    plain: list[dict[str, Any]],
    places: Callable[..., Path],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """Guards --ray-address: the rows of the plain run, from both nodes, and a cluster that outlives the command."""
    where = places(2)
    arguments = [str(crops), "--face-crops", "--bundle", str(tiny_bundle), "--engine", "ray"]
    arguments += ["--out", str(tmp_path / "out.parquet"), "--ray-address", cluster.address]
    result = CliRunner().invoke(infer, arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.stderr
    assert read_rows(tmp_path / "out.parquet") == plain
    assert {path.name for path in where.iterdir()} == names(cluster)
    assert not ray.is_initialized()
    assert all(node.remaining_processes_alive() for node in cluster.list_all_nodes())


@pytest.mark.slow
def test_a_node_that_dies_costs_no_row_and_doubles_none(
    cluster: Any,
    crops: Path,
    plain: list[dict[str, Any]],
    places: Callable[..., Path],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """Guards what Ray does again: all of a node is killed in the middle of the job, and the others do its parts."""
    doomed = cluster.add_node(**NODE)
    where = places(3, held=doomed.node_id)
    settings = Settings(AnalyzerOptions(bundle=tiny_bundle), face_crops=True)
    sources = 0
    for part in ManyImages([str(crops)], tmp_path / "out", settings).run(address=cluster.address):
        if not sources:
            assert {path.name for path in where.iterdir()} == names(cluster)
            cluster.remove_node(doomed, allow_graceful=False)
        sources += part.sources
    assert read_rows(tmp_path / "out") == plain
    assert sources == len(plain)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet") == ["_SUCCESS"]
