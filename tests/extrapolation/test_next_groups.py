"""The line search on GRPO's rollouts, whose rewards are known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, grpo_trainer, weights

from effopd.trl_hooks.group_rollouts import OLD_LOGPROBS
from extrapolation.scripted import records
from extrapolation.test_next_rollouts import add


def letters(completions: list[str], **_: Any) -> list[float]:
    """A reward that differs between the completions of most groups."""
    return [float(len(set(completion))) for completion in completions]


def test_it_searches_before_each_step_but_the_first_at_no_rollouts(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, letters, learning_rate=1e-5, max_steps=5)
    callback = add(trainer, max_kl=0.1)
    trainer.train()
    rows = records(tmp_path)
    assert [row["step"] for row in rows] == [2, 3, 4, 5]
    for key in ("rollouts", "generated_tokens", "teacher_tokens", "resampled_rollouts"):
        assert {row[key] for row in rows} == {0}
    for row in rows:
        assert row["baseline"]["score"] == 0  # a score is a gain over W_t
        accepted = [candidate for candidate in row["candidates"] if candidate["accepted"]]
        assert all(0 <= candidate["kl_to_current"] <= 0.1 for candidate in accepted)
        assert all(candidate["stderr"] > 0 for candidate in accepted)
    assert callback.num_accepted == sum(row["accepted_scale"] != 0 for row in rows) > 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_plain_trl_to_the_bit_where_nothing_is_accepted(accumulation: int, tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": accumulation}
    plain = grpo_trainer(tmp_path / "plain", letters, **options)
    plain.train()
    watched = grpo_trainer(tmp_path / "watched", letters, **options)
    add(watched, max_kl=1e-30)
    watched.train()
    rows = records(tmp_path / "watched")
    assert [row["accepted_scale"] for row in rows] == [0] * 5
    assert all(len(row["candidates"]) >= 2 for row in rows)
    assert_same(weights(plain), weights(watched))


def test_after_a_jump_the_ratios_are_to_the_weights_that_sampled(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, letters, learning_rate=1e-4, max_steps=4)
    callback = add(trainer)
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    loss = trainer._compute_loss

    def compute_loss(model: Any, inputs: Any) -> Any:
        if model.training:
            ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
            mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
            length = inputs["completion_ids"].shape[1]
            with torch.no_grad():
                live = trainer._get_per_token_logps_and_entropies(model, ids, mask, length)[0]
            if OLD_LOGPROBS in inputs:
                seen[trainer.state.global_step + 1] = live, inputs[OLD_LOGPROBS]
        return loss(model, inputs)

    trainer._compute_loss = compute_loss
    trainer.train()
    jumps = {row["step"] for row in records(tmp_path) if row["accepted_scale"] != 0}
    assert jumps and seen.keys() == jumps
    assert all((live - old).abs().max() > 1e-6 for live, old in seen.values())
    assert callback.num_accepted == len(jumps)


def test_resuming_gives_the_same_weights(tmp_path: Path) -> None:
    options = {"learning_rate": 1e-4, "max_steps": 6, "save_strategy": "steps", "save_steps": 3}
    whole = grpo_trainer(tmp_path / "whole", letters, **options)
    add(whole, passes=2)
    whole.train()
    rest = grpo_trainer(tmp_path / "whole", letters, **options)
    add(rest, passes=2)
    rest.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same(weights(whole), weights(rest))
    assert {row["accepted_scale"] for row in records(tmp_path / "whole")} != {0}
