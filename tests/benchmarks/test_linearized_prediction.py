import copy
import math
from pathlib import Path
from typing import Any

import linearized_prediction
import pytest

from effopd.files import read_json, write_json

RECORD = read_json(next(linearized_prediction.RECORDS.glob("*.json")))


def fabricated(index: int) -> dict[str, Any]:
    """A world in which everything but the speed-up rises with the concentration of b."""
    record = copy.deepcopy(RECORD) | {"world": f"world-{index}"}
    record["linearized"] |= {"rank_of_90_percent": index + 1, "fewest_for_90_percent": 8 - index}
    shares = [0.9 - index / 10] * 20
    record["linearized"]["unbiased"] |= {"driving_share": shares, "driving_share_error": [0.01] * 20}
    # Of the last world, the eigenvectors that were found hold too little.
    record["linearized"]["unbiased"] |= {"squared_norm": 1.0, "rank_of_90_percent": None if index == 7 else index + 2}
    record |= {"effective_rank": 10.0 + index, "early_alignment": 0.9 - index / 10}
    record["runs"]["none"]["rollouts_to_target"] = None if index == 7 else 64 * (index + 1)
    record["runs"]["paper"]["rollouts_to_target"] = None if index == 7 else 64
    return record


def test_signals_and_speedups_that_are_only_bounded() -> None:
    record = fabricated(7)
    assert linearized_prediction.log_speedup(record) is None
    assert linearized_prediction.signal_of(record, "unbiased_rank_of_90_percent") == 21
    assert linearized_prediction.signal_of(record, "unbiased_share") == pytest.approx(0.2)
    record["linearized"]["unbiased"]["squared_norm"] = -0.1
    assert linearized_prediction.signal_of(record, "unbiased_share") is None
    record["runs"]["paper"]["rollouts_to_target"] = 100
    record["runs"]["none"]["spent"]["rollouts_to_target"] = 800
    assert linearized_prediction.log_speedup(record) == pytest.approx(math.log(8))


@pytest.mark.parametrize("num_worlds", [2, 8])
def test_rank_correlations_need_several_worlds(
    num_worlds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linearized_prediction, "HERE", tmp_path)
    monkeypatch.setattr(linearized_prediction, "RECORDS", tmp_path / "runs")
    for index in range(num_worlds):
        write_json(tmp_path / "runs" / f"{index}.json", fabricated(index))
    linearized_prediction.write_report()
    found = read_json(tmp_path / "linearized_prediction.json")["correlations"]
    page = (tmp_path / "linearized_prediction.md").read_text()
    assert f"| world-{num_worlds - 1} |" in page
    assert f"{num_worlds} of 14 worlds" in page and "Not done yet: " in page
    assert {len(line.replace("\\|", "").split("|")) for line in page.splitlines() if line.startswith("|")} == {9, 19}
    if num_worlds == 2:
        assert set(found.values()) == {None}
        return
    assert found["rank_of_90_percent -> effective_rank"]["estimate"] == pytest.approx(1.0)
    assert found["fewest_for_90_percent -> early_alignment"]["estimate"] == pytest.approx(1.0)
    assert found["unbiased_rank_of_90_percent -> effective_rank"]["estimate"] == pytest.approx(1.0)
    assert found["unbiased_share -> effective_rank"]["estimate"] == pytest.approx(-1.0)
    speedup = found["rank_of_90_percent -> log_speedup"]
    assert speedup["estimate"] == pytest.approx(1.0)
    assert speedup["num_runs"] == 7  # a world in which neither run arrived tells nothing


def test_every_world_differs_from_the_others_in_its_task() -> None:
    tasks = list(linearized_prediction.WORLDS.values())
    assert len(set(tasks)) == len(tasks) >= 12
