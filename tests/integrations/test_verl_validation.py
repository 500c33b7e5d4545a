"""Scoring under verl where something fails, or an answer has several parts; verl's queue is a dictionary here."""

import math
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from verl_processes import needs_verl

pytestmark = needs_verl
ROWS = [{"raw_prompt": [{"role": "user", "content": "1+1="}], "index": index} for index in range(4)]


@pytest.fixture(scope="module")
def validation() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # verl's, about engines that are not installed
        from effopd.integrations.verl import validation
    return validation


class Trainer:
    """What validation asks of verl's trainer. Every prompt gets an answer in as many parts as `parts` says."""

    def __init__(self, parts: list[int], fails: bool = False) -> None:
        self.parts, self.fails, self.asked = parts, fails, list[str]()
        self.train_dataset, self.global_steps = ROWS, 3
        self.checkpoint_manager = SimpleNamespace(
            update_weights=lambda step: self.asked.append(f"weights of step {step}"),
            sleep_replicas=lambda: self.asked.append("sleep"),
        )
        self.agent_loop_manager = SimpleNamespace(generate_sequences=self.generate)
        self.replay_buffer = SimpleNamespace(sample=self.sample)
        self.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[])

    def generate(self, batch: Any) -> None:
        self.asked.append("generate")
        self.uids = [str(uid) for uid in batch["uid"]]
        assert [int(number) for number in batch["__rollout_n__"]] == [1] * len(self.uids)
        assert batch["validate"] is True
        if self.fails:
            raise RuntimeError("the server is gone")

    def sample(self, step: int, partition: str, number: int) -> Any:
        assert (step, partition, number) == (3, "val", len(self.parts))
        keys = [f"{uid}_0_{part}" for uid, parts in zip(self.uids, self.parts, strict=True) for part in range(parts)]
        return SimpleNamespace(keys=keys, partition_id=partition, tags=[{"response_len": 5} for _ in keys]), {}


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, validation: Any) -> dict[str, Any]:
    """The reward of a part is its number, over two tokens."""
    seen: dict[str, Any] = {}
    queue = SimpleNamespace(
        kv_batch_put=lambda keys, partition_id, tags: seen.update(put=keys, tags=tags),
        kv_clear=lambda keys, partition_id: seen.update(cleared=keys),
        kv_batch_get=lambda keys, **others: {"rm_scores": torch.tensor([[0.0, float(key[-1])] for key in keys])},
    )
    monkeypatch.setattr(validation, "tq", queue)
    return seen


def test_the_last_part_of_an_answer_has_its_reward(validation: Any, queue: dict[str, Any]) -> None:
    trainer = Trainer([1, 3, 2])
    score = validation.validate(trainer, [0, 2, 3])
    assert score.value == 1  # of 0, 2 and 1
    assert score.stderr == pytest.approx(1 / math.sqrt(3))
    assert (score.rollouts, score.generated_tokens, score.teacher_tokens, score.values) == (3, 30, 0, ())
    assert trainer.asked == ["weights of step 3", "generate", "sleep"]
    assert queue["put"] == trainer.uids
    assert len(queue["cleared"]) == 6


@pytest.mark.parametrize("parts", [[1, 0, 1], [0, 0, 0]])
def test_with_an_answer_missing_there_is_no_score(validation: Any, queue: dict[str, Any], parts: list[int]) -> None:
    trainer = Trainer(parts)
    with pytest.warns(UserWarning, match=rf"Step 3: {parts.count(0)} of 3 validation answers failed"):
        score = validation.validate(trainer, [0, 1, 2])
    assert math.isnan(score.value)
    assert score.rollouts == sum(parts)
    assert score.generated_tokens == 5 * sum(parts)


def test_the_engine_is_put_to_sleep_if_sampling_fails(validation: Any, queue: dict[str, Any]) -> None:
    trainer = Trainer([1], fails=True)
    with pytest.raises(RuntimeError, match="the server is gone"):
        validation.validate(trainer, [0])
    assert trainer.asked[-1] == "sleep"
