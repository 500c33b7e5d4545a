"""A step's rollouts: how they are scored, how often the teacher reads them, and what another pass over them does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, distillation_trainer, weights
from torch.nn.functional import kl_div
from transformers import TrainerCallback
from trl.trainer import distillation_trainer as distillation_module

from effopd.trl_hooks import SAMPLING_LOGPROBS, StepRollouts


def logprobs(model: Any, batch: dict[str, torch.Tensor], temperature: float) -> torch.Tensor:
    """Next-token log-probabilities of a micro-batch's completions, float64 [B, T, V]."""
    ids, mask = (torch.cat([batch[f"prompt_{name}"], batch[f"completion_{name}"]], 1) for name in ("ids", "mask"))
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits[:, batch["prompt_ids"].size(1) - 1 : -1]
    return (logits.double() / temperature).log_softmax(-1)


def kl(left: torch.Tensor, right: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """KL from one to the other, summed over the tokens of each completion, [B]."""
    return (kl_div(right, left, log_target=True, reduction="none").sum(-1) * mask).sum(1)


class AtEveryStep:
    """Makes `StepRollouts` of a trainer, and calls a function with it and the trainer when a step has sampled."""

    def __init__(self, trainer: Any, function: Any = lambda step: None, num_scored: int = 64, passes: int = 1) -> None:
        self.function = function
        self.step = StepRollouts(trainer, self.act, num_scored, passes)
        at_every_step = self

        class EndStep(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                for _ in range(1, passes):
                    at_every_step.step.train_again()
                at_every_step.step.forget()

        trainer.add_callback(EndStep())

    def act(self) -> None:
        self.function(self.step)


@pytest.mark.parametrize("num_scored", [3, 11, 64])
def test_scores_are_the_kls_by_hand_on_the_first_rollouts(num_scored: int, tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, gradient_accumulation_steps=2, temperature=0.8, max_steps=2)
    seen = 0

    def look(step: StepRollouts) -> None:
        nonlocal seen
        batches = trainer._buffered_inputs
        sampler = [logprobs(trainer.model, batch, 0.8) for batch in batches]
        before = step.score()
        assert before.kl_to_sampler == 0
        kept = weights(trainer)
        for parameter in trainer.model.parameters():
            parameter.data.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        after = step.score()
        live = [logprobs(trainer.model, batch, 0.8) for batch in batches]
        teacher = [logprobs(trainer.teacher_model, batch, 0.8) for batch in batches]
        masks = [batch["completion_mask"] for batch in batches]
        for student, score in ((sampler, before), (live, after)):
            by_hand = torch.cat(list(map(kl, student, teacher, masks)))[:num_scored]
            assert score.divergences.tolist() == pytest.approx(by_hand.tolist(), rel=1e-3)
        moved = torch.cat(list(map(kl, live, sampler, masks)))[:num_scored].sum()
        assert after.kl_to_sampler == pytest.approx((moved / torch.cat(masks)[:num_scored].sum()).item(), rel=1e-3)
        assert after.kl_to_sampler > 1e-4
        for name, parameter in trainer.model.named_parameters():
            parameter.data.copy_(kept[name])
        seen += 1

    AtEveryStep(trainer, look, num_scored)
    trainer.train()
    assert seen == 2


@pytest.mark.parametrize("passes", [1, 3])
def test_the_teacher_reads_every_rollout_once(passes: int, tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=3)
    read: list[int] = []
    trainer.teacher_model.model.register_forward_hook(lambda *args: read.append(len(args[2].last_hidden_state)))
    watcher = AtEveryStep(trainer, lambda step: [step.score() for _ in range(4)], 11, passes)
    trainer.train()
    assert read == [8, 8] * 3
    assert not watcher.step._teacher_states  # nothing is held between steps
    assert not watcher.step._sampler_states


def test_scoring_leaves_training_as_it_is_to_the_bit(tmp_path: Path) -> None:
    """Weights, log and random numbers; the teacher's reading for the score is the one that is trained on."""
    plain = distillation_trainer(tmp_path / "plain", gradient_accumulation_steps=2, logging_steps=1)
    plain.train()
    watched = distillation_trainer(tmp_path / "watched", gradient_accumulation_steps=2, logging_steps=1)
    AtEveryStep(watched, lambda step: [step.score() for _ in range(2)], 11)
    watched.train()
    assert_same(weights(plain), weights(watched))
    rows = [
        [(row.get("loss"), row.get("entropy"), row.get("grad_norm")) for row in trainer.state.log_history]
        for trainer in (plain, watched)
    ]
    assert rows[0] == rows[1]


def test_another_pass_is_the_step_that_trl_makes_on_the_same_rollouts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with gradients accumulated and clipped."""
    monkeypatch.setattr(distillation_module, "shuffle_sequence_dict", lambda batch: batch)
    options: dict[str, Any] = {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1}
    ours = distillation_trainer(tmp_path / "ours", max_steps=2, **options)
    prompts: list[Any] = []
    sample = ours._generate_and_score_completions
    ours._generate_and_score_completions = lambda inputs: (prompts.append(inputs), sample(inputs))[1]
    AtEveryStep(ours, passes=3)
    ours.train()
    assert ours.state.global_step == 2
    theirs = distillation_trainer(tmp_path / "theirs", max_steps=6, **options)
    sample_theirs, sampled = theirs._generate_and_score_completions, []

    def sample_every_third(inputs: Any) -> Any:
        if theirs.state.global_step % 3 == 0:
            sampled.append(sample_theirs(prompts[len(sampled)]))
        return dict(sampled[-1])

    theirs._generate_and_score_completions = sample_every_third
    theirs.train()
    assert len(sampled) == len(prompts) == 2
    assert_same(weights(ours), weights(theirs))


def test_the_log_and_the_count_of_steps_do_not_notice_another_pass(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, gradient_accumulation_steps=2, max_steps=2, logging_steps=1)
    AtEveryStep(trainer, passes=2)
    trainer.train()
    assert trainer._step == 4
    assert [row["step"] for row in trainer.state.log_history if "loss" in row] == [1, 2]
    assert not trainer.effopd_trains_again


def test_noted_log_probabilities_are_those_of_the_live_weights(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, gradient_accumulation_steps=2, temperature=0.8, max_steps=1)

    def look(step: StepRollouts) -> None:
        step.note_sampling_logprobs()
        for batch in trainer._buffered_inputs:
            by_hand = logprobs(trainer.model, batch, 0.8).gather(-1, batch["completion_ids"][..., None])[..., 0]
            mask = batch["completion_mask"]
            torch.testing.assert_close(batch[SAMPLING_LOGPROBS].double() * mask, by_hand * mask, rtol=1e-4, atol=1e-5)

    AtEveryStep(trainer, look)
    trainer.train()
