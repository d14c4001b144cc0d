"""Studies on a real Ray cluster of two nodes on this machine; one of them is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_studies import DATA, QUICK, report

from bitrl.core.studies.running import run_study
from bitrl.core.studies.study import Study


@pytest.fixture(autouse=True)
def _installed() -> None:
    """Not imported before it is used: that takes long, and every worker would do it."""
    pytest.importorskip("ray")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head without CPUs for cells, to which nodes are added."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_lost_nodes_cells_go_elsewhere(cluster: Any, finished: Path, tmp_path: Path) -> None:
    from bitrl.core.studies.ray_executor import RayExecutor

    lost = cluster.add_node(num_cpus=1)
    study, _ = Study.create(tmp_path / "study", DATA)
    executor, killed = RayExecutor(tmp_path / "study"), []
    assert executor.capacity == 2

    def show(states: Any) -> None:
        # When both nodes have a cell, one is lost.
        if not killed and sum(state.status == "running" for state in states) == 2:
            cluster.remove_node(lost, allow_graceful=False)
            killed.append(lost)

    run_study(study, executor, show=show)
    study.close()
    assert [study.status(cell) for cell in study.design.cells] == ["finished"] * 4
    assert killed
    assert report(tmp_path / "study") == report(finished)


def test_a_cell_that_fails_on_a_node_says_why(tmp_path: Path) -> None:
    """What a node runs, called here."""
    from bitrl.core.studies.ray_executor import _train

    data = {"base": QUICK, "arms": {"diverges": {"algo.learning_rate": 1e300}}}
    study, _ = Study.create(tmp_path / "study", data)
    study.close()
    [cell] = study.design.cells
    values = cell.arm.config(cell.seed).as_dict()
    assert "finite" in _train(values, str(study.place(cell)), str(study.directory))
    assert "put the study where all nodes see it" in _train(values, str(study.place(cell)), str(tmp_path))
