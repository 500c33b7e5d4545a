"""The public methods that HookedDistillationTrainer calls while it trains."""

from pathlib import Path
from typing import Any

import torch
from tiny import assert_same, distillation_trainer, settings, tiny_dataset, tiny_model, weights
from trl import DistillationConfig

from effopd.trl_hooks import DivergenceLoss, HookedDistillationTrainer
from effopd.world.tokenizer import make_tokenizer


class Recorder(HookedDistillationTrainer):
    """Notes what it is told."""

    rollouts: list[tuple[int, list[list[int]]]]
    teacher_passes: int
    batches: list[dict[str, Any]]

    def on_rollouts(self, examples: list[dict[str, Any]], completion_ids: list[list[int]], seconds: float) -> None:
        assert seconds > 0
        self.rollouts.append((len(examples), completion_ids))

    def on_teacher_pass(self, seconds: float) -> None:
        assert seconds > 0
        self.teacher_passes += 1

    def training_loss(self, batch: dict[str, Any]) -> DivergenceLoss:
        self.batches.append(batch)
        return super().training_loss(batch)


def recorder(out: Path) -> Recorder:
    trainer = Recorder(
        model=tiny_model(0),
        teacher_model=tiny_model(1),
        args=DistillationConfig(
            **settings(out, per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3)
        ),
        train_dataset=tiny_dataset(),
        eval_dataset=tiny_dataset(8),
        processing_class=make_tokenizer(),
    )
    trainer.rollouts, trainer.teacher_passes, trainer.batches = [], 0, []
    return trainer


def test_a_step_tells_of_its_rollouts_and_micro_batches_and_trains_as_trl_does(tmp_path: Path) -> None:
    trainer = recorder(tmp_path / "hooked")
    trainer.train()
    assert [number for number, _ in trainer.rollouts] == [8] * 3
    assert trainer.teacher_passes == len(trainer.batches) == 6
    for (_, sampled), *batches in zip(trainer.rollouts, trainer.batches[::2], trainer.batches[1::2], strict=True):
        pairs = [
            (ids[mask.bool()].tolist())
            for batch in batches
            for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        assert sorted(pairs) == sorted(sampled)
    plain = distillation_trainer(
        tmp_path / "plain", per_device_train_batch_size=4, gradient_accumulation_steps=2, max_steps=3
    )
    plain.train()
    assert_same(weights(plain), weights(trainer))


def test_evaluation_tells_nothing(tmp_path: Path) -> None:
    trainer = recorder(tmp_path)
    assert trainer.evaluate()["eval_loss"] > 0
    with torch.no_grad():
        trainer.model.eval()
        trainer.compute_loss(trainer.model, trainer._prepare_inputs([*tiny_dataset(4)]))
    assert not (trainer.rollouts or trainer.teacher_passes or trainer.batches)
