"""What TRL keeps beside the weights while EffOPD changes them: a synced reference model, gradient checkpointing."""

from pathlib import Path
from typing import Any

import torch
from tiny import contains_answer, distillation_trainer, grpo_trainer, tiny_model

from effopd.extrapolation import EffOPDCallback


def test_a_reference_model_is_synced_with_the_accepted_weights(tmp_path: Path) -> None:
    tiny_model(0).save_pretrained(tmp_path / "model")
    calls: list[int] = []

    def better_each_time(completions: list[str], **kwargs: Any) -> list[float]:
        calls.append(1)
        return [len(calls) + 0.1 * (i % 2) for i in range(len(completions))]

    settings = {"beta": 0.1, "sync_ref_model": True, "ref_model_sync_steps": 1, "ref_model_mixup_alpha": 1.0}
    model = str(tmp_path / "model")
    trainer = grpo_trainer(tmp_path / "out", better_each_time, model=model, max_steps=2, **settings)
    callback = EffOPDCallback(trainer, num_prompts=4, scales=[4], schedule=[2])
    trainer.add_callback(callback)
    trainer.train()
    assert callback.last is not None
    assert callback.last["accepted_scale"] == 4
    for live, reference in zip(trainer.model.parameters(), trainer.ref_model.parameters(), strict=True):
        assert torch.equal(live, reference)


def test_gradient_checkpointing_stays_on_after_a_candidate_that_cannot_be_sampled(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=3, gradient_checkpointing=True)
    generate, step, calls, is_on = trainer.model.generate, trainer.training_step, [], []

    def fails_for_the_candidate(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)  # of the first step, of W_t, and of the candidate
        if len(calls) == 3:
            raise RuntimeError("probability tensor contains either `inf`, `nan` or element < 0")
        return generate(*args, **kwargs)

    def noted(*args: Any, **kwargs: Any) -> Any:
        is_on.append(trainer.model.is_gradient_checkpointing)
        return step(*args, **kwargs)

    trainer.model.generate, trainer.training_step = fails_for_the_candidate, noted
    callback = EffOPDCallback(trainer, contains_answer, num_prompts=8, scales=[1], schedule=[1])
    trainer.add_callback(callback)
    trainer.train()
    assert callback.num_accepted == 0
    assert is_on == [True, True, True]
