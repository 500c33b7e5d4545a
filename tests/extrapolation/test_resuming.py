"""What an interruption leaves, and how training goes on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import assert_same, distillation_trainer, weights

from effopd import trl_hooks
from effopd.errors import CheckpointError
from effopd.extrapolation import callback as callback_module
from effopd.extrapolation.search import Score
from effopd.extrapolation.snapshot import Snapshot
from effopd.training.complete_checkpoints import COMPLETE
from effopd.training.metrics import MetricsCallback
from extrapolation.scripted import Scripted, records, script, with_effopd


@pytest.mark.parametrize(
    ("preset", "num_rows", "settings"),
    [
        ("paper", 64, {}),
        ("adaptive", 64, {}),
        ("paper", 24, {}),
        ("paper", 16, {}),
        ("paper", 64, {"reset_optimizer": True, "schedule": [3]}),  # the state is empty when it is saved
        ("line_search", 64, {}),
        ("line_search", 24, {"passes": 3}),
    ],
)
def test_resuming_is_exact_to_the_bit(preset: str, num_rows: int, settings: dict[str, Any], tmp_path: Path) -> None:
    """From a checkpoint between two triggers (paper: 2 and 4): weights, records and costs.

    It lies in the first pass over the prompts, at its end, and in the second one, for which they are shuffled anew.
    """
    save = {"save_strategy": "steps", "save_steps": 3, "max_steps": 5}
    whole = distillation_trainer(tmp_path / "whole", num_rows=num_rows, **save)
    first = with_effopd(whole, preset=preset, **settings)
    whole.train()
    assert whole.state.epoch == pytest.approx(5 * 8 / num_rows)
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "resumed" / "checkpoint-3")
    (tmp_path / "resumed" / "extrapolations.jsonl").write_text(
        (tmp_path / "whole" / "extrapolations.jsonl").read_text()
    )
    resumed = distillation_trainer(tmp_path / "resumed", num_rows=num_rows, **save)
    second = with_effopd(resumed, preset=preset, **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / "checkpoint-3"))
    assert_same(weights(whole), weights(resumed))

    def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if not key.endswith("seconds")}

    assert [*map(without_seconds, records(tmp_path / "whole"))] == [
        *map(without_seconds, records(tmp_path / "resumed"))
    ]
    assert without_seconds(first.cost) == without_seconds(second.cost)
    assert first.num_accepted == second.num_accepted
    assert first._rate.state() == second._rate.state()


def test_resuming_without_the_anchor_is_refused(tmp_path: Path) -> None:
    save = {"save_strategy": "steps", "save_steps": 3}
    distillation_trainer(tmp_path, **save).train()
    trainer = distillation_trainer(tmp_path, **save)
    with_effopd(trainer)
    with pytest.raises(CheckpointError, match="no complete extrapolation state"):
        trainer.train(resume_from_checkpoint=True)


def test_resuming_without_the_files_of_all_processes_or_with_a_damaged_state_is_refused(tmp_path: Path) -> None:
    save = {"save_strategy": "steps", "save_steps": 3}
    trainer = distillation_trainer(tmp_path, **save)
    with_effopd(trainer)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-3"
    state, whole = checkpoint / "effopd" / "state.json", checkpoint / "effopd" / "anchor-00000-of-00001.safetensors"
    content = json.loads(state.read_text())
    assert content["files"] == 1
    replica = whole.with_name("anchor-00000-of-00002.safetensors")  # as replicas once wrote them: of use to any
    whole.rename(replica)
    state.write_text(json.dumps({name: value for name, value in content.items() if name != "files"}))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    state.write_text(json.dumps(content | {"files": 2}))
    with pytest.raises(CheckpointError, match=r"lacks anchor-00001-of-00002\.safetensors: 2 processes saved"):
        trainer.train(resume_from_checkpoint=str(checkpoint))
    state.write_text("{")
    with pytest.raises(CheckpointError, match=r"state\.json cannot be read as JSON.*resume from another checkpoint"):
        trainer.train(resume_from_checkpoint=str(checkpoint))


def test_what_another_number_of_processes_left_of_an_interrupted_save_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "checkpoint-3" / "effopd" / "anchor-00001-of-00002.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    trainer = distillation_trainer(tmp_path, save_strategy="steps", save_steps=3)
    with_effopd(trainer)
    trainer.train()
    assert {path.name for path in left.parent.iterdir()} == {"anchor-00000-of-00001.safetensors", "state.json"}


def test_training_again_after_resuming_starts_from_nothing(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=3, save_strategy="steps", save_steps=2)
    callback = with_effopd(trainer)
    metrics = MetricsCallback(trainer, callback)
    trainer.add_callback(metrics)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-2"
    complete = json.loads((checkpoint / COMPLETE).read_text())
    complete["totals"]["rollouts"] = 1000
    (checkpoint / COMPLETE).write_text(json.dumps(complete))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert metrics.row is not None
    assert metrics.row["rollouts"] == 1000 + callback.cost["rollouts"]
    trainer.train()
    rows = records(tmp_path)
    assert [row["cosine_to_previous"] is None for row in rows] == [True, False]
    assert metrics.row["rollouts"] == callback.cost["rollouts"] == sum(row["rollouts"] for row in rows)
    for phase in ("validation", "extrapolation"):
        assert metrics.row["seconds"][phase] == pytest.approx(callback.cost[f"{phase}_seconds"])
    assert callback.num_accepted == sum(row["accepted_scale"] > 0 for row in rows)


def test_an_interruption_leaves_the_weights_of_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=1)
    with_effopd(trainer)
    scripted = Scripted(0.1, 0.2)

    def interrupted(*args: Any) -> Score:
        trainer._last_loaded_step = 1  # as when vLLM holds the candidate
        if not scripted.scores:
            raise KeyboardInterrupt
        return scripted(*args)

    monkeypatch.setattr(callback_module, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert_same(weights(trainer), scripted.seen[0])
    assert trainer._last_loaded_step == -1


@pytest.mark.parametrize("scores", [(0.5, 0.4), (0.1, 0.2, 0.1), (0.1, 0.2, 0.3)])
@pytest.mark.parametrize("where", ["publish", "commit"])
def test_an_interruption_at_the_end_of_a_trigger(
    where: str, scores: tuple[float, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the accepted weights are the anchor it leaves those of the step, then the accepted ones."""
    trainer = distillation_trainer(tmp_path, max_steps=1)
    initial = weights(trainer)
    callback = with_effopd(trainer, scales=[2, 4])
    scripted = script(monkeypatch, *scores)
    publish, kept = trl_hooks.publish_weights, iter([False] * len(scores) + [True] + [False] * 9)

    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    if where == "publish":  # the last time only: the callback publishes what it restores
        monkeypatch.setattr(trl_hooks, "publish_weights", lambda t: interrupt() if next(kept) else publish(t))
    else:
        monkeypatch.setattr(Snapshot, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert_same(weights(trainer), scripted.seen[0 if where == "publish" else scores.index(max(scores))])
    assert callback._snapshot is not None
    assert_same(callback._snapshot._anchor, initial)


def test_starting_in_the_middle_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    callback = with_effopd(trainer)
    trainer.state.global_step, trainer.state.max_steps = 3, 6
    with pytest.raises(CheckpointError, match="resume_from_checkpoint"):
        callback.on_train_begin(trainer.args, trainer.state, trainer.control)
