"""GRPO's rollouts: scored by hand, trained on again as TRL does, and left as they are."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, grpo_trainer, weights
from transformers import TrainerCallback
from trl.trainer import grpo_trainer as grpo_module

from effopd.trl_hooks import GroupRollouts
from effopd.trl_hooks.group_rollouts import OLD_LOGPROBS


class AtEveryStep:
    """Makes `GroupRollouts` of a trainer, and calls a function with it when a step has sampled."""

    def __init__(
        self,
        trainer: Any,
        function: Callable[[GroupRollouts], Any] = lambda _: None,
        num_scored: int = 64,
        passes: int = 1,
    ) -> None:
        self.function = function
        self.step = GroupRollouts(trainer, self.act, num_scored, passes)
        watcher = self  # the trainer's callback keeps it alive

        class EndStep(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                for _ in range(passes - 1):
                    watcher.step.train_again()
                watcher.step.forget()

        trainer.add_callback(EndStep())

    def act(self) -> None:
        self.function(self.step)


def logprobs(model: Any, batch: Any) -> torch.Tensor:
    """Log-probabilities of the tokens of a micro-batch, float64 [B, T]."""
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    length = batch["completion_ids"].shape[1]
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -length - 1 : -1].double()
    return logits.log_softmax(-1).gather(-1, batch["completion_ids"][..., None])[..., 0]


def move(trainer: Any) -> None:
    """Move the weights a little, always in the same way."""
    generator = torch.Generator().manual_seed(1)
    for parameter in trainer.model.parameters():
        parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("num_scored", [3, 11, 64])
def test_scores_are_those_by_hand_on_the_first_rollouts(num_scored: int, beta: float, tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=2)
    seen = 0

    def look(step: GroupRollouts) -> None:
        nonlocal seen
        batches, kept = trainer._buffered_inputs, weights(trainer)
        sampler = [logprobs(trainer.model, batch) for batch in batches]
        trainer.beta = beta
        for batch, old in zip(batches, sampler, strict=True):
            batch["ref_per_token_logps"] = (old + 0.3).float()
        at_rest = step.score()
        assert at_rest.kl_to_sampler == 0
        move(trainer)
        score = step.score()
        by_hand, rest, nats, tokens = [], [], [], []
        for batch, old in zip(batches, sampler, strict=True):
            mask, live = batch["completion_mask"], logprobs(trainer.model, batch)
            log_ratio = (live - old) * mask
            gain = (log_ratio.exp() - 1) * batch["advantages"][:, None]

            def penalty(of: torch.Tensor, batch: Any = batch) -> torch.Tensor:
                gap = batch["ref_per_token_logps"] - of
                return beta * (gap.exp() - gap - 1)

            by_hand += ((gain - (penalty(live) if beta else 0)) * mask).sum(1).tolist()
            rest += ((0 * gain - (penalty(old) if beta else 0)) * mask).sum(1).tolist()
            nats += (log_ratio.exp() - 1 - log_ratio).sum(1).tolist()
            tokens += mask.sum(1).tolist()
        assert score.values.tolist() == pytest.approx(by_hand[:num_scored], rel=1e-3, abs=1e-5)
        assert at_rest.values.tolist() == pytest.approx(rest[:num_scored], rel=1e-3, abs=1e-5)
        assert score.kl_to_sampler == pytest.approx(sum(nats[:num_scored]) / sum(tokens[:num_scored]), rel=1e-2)
        assert score.kl_to_sampler > 1e-4
        for name, parameter in trainer.model.named_parameters():
            parameter.data.copy_(kept[name])
        trainer.beta = 0.0
        seen += 1

    AtEveryStep(trainer, look, num_scored)
    trainer.train()
    assert seen == 2


def test_scoring_leaves_training_as_it_is_to_the_bit(tmp_path: Path) -> None:
    options = {"gradient_accumulation_steps": 2, "logging_steps": 1}
    plain = grpo_trainer(tmp_path / "plain", **options)
    plain.train()
    watched = grpo_trainer(tmp_path / "watched", **options)
    AtEveryStep(watched, lambda step: [step.score() for _ in range(2)], 11)
    watched.train()
    assert_same(weights(plain), weights(watched))
    for key in ("loss", "entropy", "grad_norm", "clip_ratio/region_mean"):
        logs = [[row.get(key) for row in each.state.log_history] for each in (plain, watched)]
        assert logs[0] == logs[1]


def test_another_pass_is_the_iteration_that_trl_makes_on_the_same_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL's own `num_iterations`, whose ratios are to the weights that sampled."""
    monkeypatch.setattr(grpo_module, "shuffle_sequence_dict", lambda batch: batch)
    ours = grpo_trainer(tmp_path / "ours", max_steps=1, learning_rate=1e-2)
    watcher = AtEveryStep(ours, passes=3)
    batches: list[Any] = []
    watcher.function = lambda step: batches.extend(ours._buffered_inputs)
    ours.train()
    theirs = grpo_trainer(tmp_path / "theirs", max_steps=3, num_iterations=3, learning_rate=1e-2)
    theirs.train()
    assert OLD_LOGPROBS in batches[0]
    for name, weight in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], weight, rtol=0, atol=1e-6)


def test_noted_log_probabilities_are_those_that_sampled(tmp_path: Path) -> None:
    trainer = grpo_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=1)

    def look(step: GroupRollouts) -> None:
        expected = [logprobs(trainer.model, batch) for batch in trainer._buffered_inputs]
        step.note_sampling_logprobs()
        move(trainer)
        step.note_sampling_logprobs()  # which are known already
        for batch, by_hand in zip(trainer._buffered_inputs, expected, strict=True):
            mask = batch["completion_mask"]
            torch.testing.assert_close(batch[OLD_LOGPROBS].double() * mask, by_hand * mask, rtol=1e-4, atol=1e-5)

    AtEveryStep(trainer, look)
    trainer.train()
