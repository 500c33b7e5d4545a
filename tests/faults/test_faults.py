"""Commands that are killed, and training that is ended from outside: what is done again is the same to the bit."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import effopd
from faults import causes, kill_everywhere, processes, two_hosts
from faults.workloads import WORKLOADS


def records_of(script: Any, out: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a script in a process of its own, whose forks are killed, and read its records."""
    command = [sys.executable, script.__file__, str(out / "work"), "--out", str(out / "records.jsonl"), *arguments]
    folders = f"{Path(effopd.__file__).parents[1]}:{Path(__file__).parents[1]}"
    subprocess.run(command, check=True, timeout=3600, env=os.environ | {"PYTHONPATH": folders})
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def assert_all_the_same(records: list[dict[str, Any]], at_most: int) -> None:
    """Every start after a kill gives the same, and does no more steps again than since the last checkpoint."""
    assert not [record for record in records if record.get("outcome", "same") != "same"]
    assert max((record.get("redone", 0) for record in records), default=0) <= at_most


def test_what_a_killed_run_has_left_is_enough(tmp_path: Path) -> None:
    """At the writes that make a checkpoint, in the only one that is kept, and in the middle of a trigger."""
    only = (
        r"half of .*-2/.*(optimizer|anchor|complete)|(rename|remove) \.?checkpoint-1|write_candidate|half of run\.json"
    )
    arguments = ("--workload", "train, one checkpoint kept", "--only", only, "--most", "8")
    records = records_of(kill_everywhere, tmp_path, *arguments)
    points = {record["point"] for record in records[1:]}
    assert {"remove .checkpoint-1.removed", "call Snapshot.write_candidate", "half of run.json.tmp"} <= points
    assert_all_the_same(records, at_most=1)


def test_what_ends_a_run_from_outside_is_named(tmp_path: Path) -> None:
    names = ("disk full, at the records", "clock set back", "teacher of NaN", "reward raises", "model cut short")
    records = records_of(causes, tmp_path, "--only", "|".join(names))
    assert {record["cause"]: record["outcome"] for record in records} == dict.fromkeys(names, "same")


@pytest.mark.slow
@pytest.mark.parametrize("workload", WORKLOADS)
def test_a_kill_at_any_point(workload: str, tmp_path: Path) -> None:
    # All points of a study would take a night; at those of training, analysis and sweeps, these are killed themselves.
    most = ("--most", "60") if workload == "study" else ()
    assert_all_the_same(records_of(kill_everywhere, tmp_path, "--workload", workload, *most), at_most=2)


@pytest.mark.slow
def test_every_cause(tmp_path: Path) -> None:
    records = records_of(causes, tmp_path)
    assert [record["cause"] for record in records] == list(causes.CAUSES)
    assert {record["outcome"] for record in records} == {"same", "nothing was begun"}


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    found = {record["cause"]: record["outcome"] for record in records_of(processes, tmp_path)}
    assert all(found[f"one of two processes {place}"] == "same" for place in processes.PLACES)
    for change in ("2 to 1", "1 to 2"):
        assert found[f"{change} processes, other prompts per step"] == "refused"
        assert found[f"{change} processes, as many prompts per step"] == "goes on"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces take root and iproute2")
def test_two_hosts_that_lose_each_other(tmp_path: Path) -> None:
    records = records_of(two_hosts, tmp_path)
    assert [record["outcome"] for record in records] == ["same"] * len(two_hosts.PLACES)
    for record in records:
        assert 1 in record["torchrun"]
        assert all(0 < seconds < 2 * two_hosts.TIMEOUT for seconds in record["ended_after"])
        assert "another process of this training does not answer" in record["says"]
        assert "another process of this training does not answer" in record["other_says"]
