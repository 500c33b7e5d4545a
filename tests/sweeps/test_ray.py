"""Workers on Ray: the same numbers, whoever dies."""

import logging
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sweeps.short_runs import make

from effopd.errors import ConfigurationError
from effopd.models.find import absolute_name
from effopd.sweeps import SweepSpec, plan_cells, sweep
from effopd.sweeps.execute import FinishedCell, execute
from effopd.sweeps.worker import CellSettings

pytest.importorskip("ray", reason="needs ray: pip install 'effopd[ray]'")

MANY: dict[str, Any] = {
    "preset": "intervention",
    "kind": "scale",
    "vary": "alpha",
    "values": [0.1 * number for number in range(12)],
}


def finish(spec: SweepSpec, **options: Any) -> Iterator[FinishedCell]:
    settings = CellSettings(absolute_name(spec.base), tasks=spec.task_settings())
    return execute(plan_cells(spec).cells, settings, **options)


def test_two_workers_give_what_one_gives_and_a_killed_one_costs_its_cell_only(root: Path) -> None:
    few = MANY | {"values": MANY["values"][:5]}
    spec = make(root, sweeps=[few], runs={"GRPO": "grpo-0", "OPD": "opd-0"}, limit=64)
    finished: list[FinishedCell] = []
    killed = None
    for each in finish(spec, workers=2):
        finished.append(each)
        assert each.outcome.measured is not None, each.outcome.error
        if killed is None:
            killed = int(each.outcome.measured["node"].rpartition("/")[2])
            os.kill(killed, signal.SIGKILL)
    assert len(finished) == 10 == len({each.cell.key for each in finished})
    assert [each.attempt for each in finished].count(2) == 1  # the cell that was handed to it next
    processes = {each.outcome.measured["node"] for each in finished if each.outcome.measured}
    assert len(processes) >= 2
    alone = {each.cell.key: each.outcome.measured for each in finish(spec, workers=1)}
    for each in finished:
        one, other = alone[each.cell.key], each.outcome.measured
        assert one and other and all(one[name] == other[name] for name in ("mean", "low", "high", "update_norm"))


@pytest.mark.slow
def test_a_cluster_loses_a_node_in_the_middle(root: Path) -> None:
    """Two nodes with room for one worker each; the one without the head is killed, with its worker at a cell."""
    import ray
    from ray.cluster_utils import Cluster

    bad = {"preset": "intervention", "name": "bad", "kind": "window", "vary": "centre", "values": [99]}
    sweeps = [MANY | {"name": "many"}, bad | {"fields": {"module": "mlp"}, "runs": ["GRPO"]}]
    spec = make(root, sweeps=sweeps, runs={"GRPO": "grpo-0", "OPD": "opd-0"}, limit=256)
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "object_store_memory": 80 * 2**20,
            "_system_config": {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500},
        },
    )
    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
        seen: set[str] = set()
        finished: list[FinishedCell] = []
        removed_at = None
        for each in finish(spec):  # as many workers as the cluster has room for
            finished.append(each)
            if each.outcome.measured:
                seen.add(each.outcome.measured["node"])
            if removed_at is None and len(seen) == 2:
                removed_at = len(finished)
                cluster.remove_node(node, allow_graceful=False)
        assert removed_at is not None
        assert len({each.cell.key for each in finished}) == len(finished) == 25
        (failed,) = [each for each in finished if each.outcome.error]
        assert "centre 99" in str(failed.outcome.error)
        assert [each.attempt for each in finished if each.outcome.measured].count(2) == 1
        after = Counter(each.outcome.measured["node"] for each in finished[removed_at:] if each.outcome.measured)
        assert after.total() - max(after.values()) <= 1  # a result may have been on its way
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_a_cluster_that_is_not_there_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        sweep(make(root), tmp_path / "out", address="127.0.0.1:1")
