"""A whole job on a cluster of two nodes, both on this machine, gives the rows of the plain run."""

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

TIMEOUT_S = 120.0
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
# how soon a dead node is noticed; a live node has 10 s for each reply
HEALTH = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with one core each, in separate processes."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray starts its workers at a low priority, which costs minutes on a busy machine
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": HEALTH})
    made.add_node(**NODE)
    yield made
    made.shutdown()


@pytest.fixture
def record_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make workers record their node: each part adds a line to a file named after the node that analyses it.

    Parts wait until the given number of nodes has begun one; the node `held` stays in its first part.
    """

    def record(nodes: int, held: str | None = None) -> Path:
        folder = tmp_path / "nodes"
        folder.mkdir()

        class Recording(Worker):
            def _do(self, analyzer: Any, number: int, todo: Any) -> Any:
                node = ray.get_runtime_context().get_node_id()
                with (folder / node).open("a") as file:
                    file.write(f"{number}\n")
                end = time.monotonic() + TIMEOUT_S
                while (node == held or len(list(folder.iterdir())) < nodes) and time.monotonic() < end:
                    time.sleep(0.05)
                return super()._do(analyzer, number, todo)

        monkeypatch.setattr(facexp.many.job, "Worker", Recording)
        return folder

    return record


def node_ids(cluster: Any) -> set[str]:
    return {node.node_id for node in cluster.list_all_nodes()}


@pytest.mark.slow
def test_a_cluster_gives_the_rows_of_the_plain_run(
    cluster: Any,
    crops: Path,
    plain: list[dict[str, Any]],
    record_nodes: Callable[..., Path],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """Guards --ray-address: the rows of the plain run, from both nodes; the cluster runs on after the command."""
    node_files = record_nodes(2)
    arguments = [str(crops), "--face-crops", "--bundle", str(tiny_bundle), "--engine", "ray"]
    arguments += ["--out", str(tmp_path / "out.parquet"), "--ray-address", cluster.address]
    result = CliRunner().invoke(infer, arguments)
    assert (result.exit_code, result.stdout) == (1, ""), result.stderr
    assert read_rows(tmp_path / "out.parquet") == plain
    assert {path.name for path in node_files.iterdir()} == node_ids(cluster)
    assert not ray.is_initialized()
    assert all(node.remaining_processes_alive() for node in cluster.list_all_nodes())


@pytest.mark.slow
def test_a_killed_node_neither_loses_nor_duplicates_rows(
    cluster: Any,
    crops: Path,
    plain: list[dict[str, Any]],
    record_nodes: Callable[..., Path],
    tiny_bundle: Path,
    tmp_path: Path,
) -> None:
    """Guards Ray's retries: a whole node is killed in the middle of the job, and the other nodes do its parts."""
    doomed = cluster.add_node(**NODE)
    node_files = record_nodes(3, held=doomed.node_id)
    settings = Settings(AnalyzerOptions(bundle=tiny_bundle), face_crops=True)
    sources = 0
    for part in ManyImages([str(crops)], tmp_path / "out", settings).run(address=cluster.address):
        if not sources:
            assert {path.name for path in node_files.iterdir()} == node_ids(cluster)
            cluster.remove_node(doomed, allow_graceful=False)
        sources += part.sources
    assert read_rows(tmp_path / "out") == plain
    assert sources == len(plain)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix != ".parquet") == ["_SUCCESS"]
