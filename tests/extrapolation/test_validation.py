"""What rewards may do while they validate."""

import asyncio
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import distillation_trainer, grpo_trainer, tiny_dataset
from transformers import set_seed

from effopd import trl_hooks
from effopd.extrapolation.validation import RewardValidator, TeacherKLValidator, Validator, validate


def score(trainer: Any, *rewards: Any, weights: list[float] | None = None, num_prompts: int = 10) -> Any:
    return validate(trainer, RewardValidator(rewards, weights), list(tiny_dataset(num_prompts)), seed=0)


def test_none_adds_nothing_and_unjudged_completions_are_left_out_as_in_trl(tmp_path: Path) -> None:
    def first(completions: list[str], **kwargs: Any) -> list[float | None]:
        return [None, None, *[1.0] * (len(completions) - 2)]

    def second(completions: list[str], **kwargs: Any) -> list[float | None]:
        return [6.0, *[None] * (len(completions) - 1)]

    trainer = distillation_trainer(tmp_path)
    judged = score(trainer, first)
    assert (judged.value, judged.stderr, judged.rollouts) == (1, 0, 10)  # of the two nobody judged, nothing is known
    both = score(trainer, first, second, weights=[2.0, 0.5])
    assert both.value == pytest.approx((0.5 * 6 + 8 * 2) / 9)
    nothing = score(trainer, lambda completions, **kwargs: [None] * len(completions))
    assert math.isnan(nothing.value) and math.isnan(nothing.stderr)
    assert nothing.rollouts == 10


def test_nan_is_none_as_in_trl(tmp_path: Path) -> None:
    def partly(completions: list[str], **kwargs: Any) -> list[float]:
        return [math.nan, *[float(number) for number in range(len(completions) - 1)]]

    found = score(distillation_trainer(tmp_path), partly)
    assert found.value == 4
    assert found.stderr == pytest.approx(np.std(range(9), ddof=1) / 3)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_rewards_make_the_score_infinite(value: float, tmp_path: Path) -> None:
    assert (
        score(distillation_trainer(tmp_path), lambda completions, **kwargs: [value] * len(completions)).value == value
    )


def test_mean_and_standard_error_of_one_prompt(tmp_path: Path) -> None:
    single = score(distillation_trainer(tmp_path), lambda completions, **kwargs: [0.5], num_prompts=1)
    assert single.value == 0.5
    assert math.isnan(single.stderr)


@pytest.mark.parametrize("draw", [random.random, np.random.rand, lambda: torch.rand(()).item()])
def test_rewards_that_draw_random_numbers_leave_those_of_training(draw: Any, tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    set_seed(7)
    expected = draw()
    set_seed(7)
    first, second = (score(trainer, lambda completions, **kwargs: [draw() for _ in completions]) for _ in range(2))
    assert first == second  # common random numbers
    assert first.stderr > 0
    assert draw() == expected


def test_asynchronous_rewards_share_a_loop_of_their_own(tmp_path: Path) -> None:
    """What is bound to the loop lives on from one validation to the next; a notebook's loop may be running."""
    one_at_a_time = asyncio.Semaphore(1)

    async def length(completion: str) -> float:
        async with one_at_a_time:
            await asyncio.sleep(0)
            return float(len(completion))

    async def reward(completions: list[str], **kwargs: Any) -> list[float]:
        return await asyncio.gather(*map(length, completions))

    async def notebook() -> list[float]:
        return [score(trainer, reward).value for _ in range(2)]

    trainer = distillation_trainer(tmp_path)
    first, second = asyncio.run(notebook())
    assert first == second == score(trainer, lambda completions, **kwargs: [*map(len, completions)]).value


def test_asynchronous_rewards_of_grpo_run_where_its_own_do(tmp_path: Path) -> None:
    loops = []

    async def reward(completions: list[str], **kwargs: Any) -> list[float]:
        loops.append(asyncio.get_running_loop())
        return [0.0] * len(completions)

    trainer = grpo_trainer(tmp_path, reward)
    score(trainer, reward)
    assert loops == [trainer.async_loop]


def test_the_rewards_of_a_grpo_trainer_keep_their_weights(tmp_path: Path) -> None:
    def one(completions: list[str], **kwargs: Any) -> list[float]:
        return [1.0] * len(completions)

    trainer = grpo_trainer(tmp_path, [one, one], reward_weights=[0.25, 2.0])
    validator = RewardValidator()
    validator.check(trainer)
    assert validate(trainer, validator, list(tiny_dataset(10)), seed=0).value == 2.25


def test_columns_that_are_arguments_too(tmp_path: Path) -> None:
    rows = [{"prompt": "1+1=", "completion": "x", "completion_ids": [1], "answer": "2"}]
    seen = []

    def reward(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
        seen.append((completions[0], answer[0], kwargs["completion_ids"][0]))
        return [0.0]

    validate(distillation_trainer(tmp_path), RewardValidator(reward), rows, seed=0)
    assert seen[0][0] != "x"
    assert seen[0][1] == "2"
    assert seen[0][2] != [1]


def test_every_process_scores_its_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven prompts on three processes: four each, and the last process's last one counts as cost alone."""
    rows = [{"prompt": "1+1=", "answer": str(i)} for i in range(11)]
    shares: list[list[int]] = []

    def generate(trainer: Any, examples: list[dict[str, Any]], seed: int) -> list[trl_hooks.Rollout]:
        shares.append([int(example["answer"]) for example in examples])
        return [trl_hooks.Rollout(example, [2], [3] * int(example["answer"]), "") for example in examples]

    class Twice(Validator):
        teacher_passes = 2

        def scores(self, trainer: Any, rollouts: list[trl_hooks.Rollout]) -> torch.Tensor:
            return torch.tensor([float(rollout.example["answer"]) for rollout in rollouts])

    def gather(tensor: torch.Tensor) -> torch.Tensor:
        everywhere = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]
        values = everywhere if len(tensor) == 4 else [[sum(share)] for share in everywhere]
        assert tensor.tolist() == values[rank]
        return torch.tensor(values, dtype=tensor.dtype).flatten()

    monkeypatch.setattr(trl_hooks, "generate", generate)
    monkeypatch.setattr("effopd.extrapolation.validation.gather", gather)
    for rank in range(3):
        accelerator = SimpleNamespace(num_processes=3, process_index=rank, device=torch.device("cpu"))
        result = validate(SimpleNamespace(accelerator=accelerator), Twice(), rows, seed=0)
        assert result.value == 5
        assert result.stderr == pytest.approx(math.sqrt(11 / 11))
        assert (result.rollouts, result.generated_tokens, result.teacher_tokens) == (12, 55, 110)
    assert shares == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 0]]


def test_the_teacher_reads_every_token_once(tmp_path: Path) -> None:
    result = validate(distillation_trainer(tmp_path), TeacherKLValidator(), list(tiny_dataset(10)), seed=0)
    assert result.teacher_tokens == result.generated_tokens > 0
    assert result.value < 0


def test_a_reward_that_changes_its_arguments_changes_no_other_prompt(tmp_path: Path) -> None:
    seen: list[int] = []

    def appends(prompts: list[Any], completions: list[Any], **kwargs: Any) -> list[float]:
        seen.extend(len(prompt) for prompt in prompts)
        for prompt, completion in zip(prompts, completions, strict=True):
            prompt.extend(completion)
        return [0.0] * len(prompts)

    trainer = distillation_trainer(tmp_path)
    trainer.processing_class.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    rows = [{"prompt": [{"role": "user", "content": "1+1="}]} for _ in range(3)]
    validator = RewardValidator(appends)
    validator.try_out(trainer, rows[0])
    for seed in (0, 1):
        validate(trainer, validator, rows, seed)
    assert seen == [1] * 7


def test_asynchronous_rewards_run_side_by_side(tmp_path: Path) -> None:
    """Neither could end if it were waited for before the other starts."""
    arrived: list[asyncio.Event] = []

    def meeting(me: int) -> Any:
        async def reward(completions: list[str], **kwargs: Any) -> list[float]:
            if not arrived:
                arrived.extend((asyncio.Event(), asyncio.Event()))
            arrived[me].set()
            await asyncio.wait_for(arrived[1 - me].wait(), 60)
            return [1.0 + me] * len(completions)

        return reward

    assert score(distillation_trainer(tmp_path), meeting(0), meeting(1)).value == 3
