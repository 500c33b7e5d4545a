from pathlib import Path

import pytest

from effopd.checkpoints import find_checkpoints, open_pair
from effopd.errors import CheckpointError, ConfigurationError, DataError
from effopd.experiments.arguments import world_run_arguments
from effopd.experiments.world_runs import WorldRunSteps, world_runs
from effopd.run_directory import locked
from effopd.world import base_dir

STEPS = WorldRunSteps(opd=(2, 1), effopd=(2, 1), grpo=(1, 1))


def test_runs_keep_their_checkpoints_and_are_not_done_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = world_runs(tmp_path, seeds=1, steps=STEPS)
    steps = {name: [checkpoint.step for checkpoint in find_checkpoints(path)] for name, path in runs.items()}
    assert steps == {"opd-0": [1, 2], "effopd-0": [1, 2], "grpo-0": [1]}
    assert not list(tmp_path.rglob("optimizer.pt"))
    for path in runs.values():
        pair = open_pair(base_dir(), path)
        assert any(pair.delta(name).any() for name in pair.names)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")}
    assert world_runs(tmp_path, seeds=1, steps=STEPS) == runs
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.safetensors")} == written
    with pytest.raises(ConfigurationError, match="another --out"):
        world_runs(tmp_path, seeds=1, steps=STEPS._replace(grpo=(2, 1)))
    assert "grpo-0: 1 checkpoints" in capsys.readouterr().out
    (tmp_path / "grpo-0" / "run.json").unlink()
    with pytest.raises(CheckpointError, match="grpo-0 is not empty and holds no run of"):
        world_runs(tmp_path, seeds=1, steps=STEPS)
    assert (tmp_path / "grpo-0" / "model.safetensors").exists()


def test_only_one_command_at_a_time_writes_runs(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(DataError, match="another command is writing there"):
        world_runs(tmp_path, seeds=1, steps=STEPS)
    assert not list(tmp_path.iterdir())


def test_prompts_per_step_that_would_be_rounded_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="prompts_per_step: got 300, expected at most 256 or a multiple of it"):
        world_run_arguments(tmp_path, acceleration="none", learning_rate=1e-4, seed=0, prompts_per_step=300)
