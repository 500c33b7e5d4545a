"""Fails loudly when TRL moves one of the private names that effopd.trl_hooks uses."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, distillation_trainer, grpo_trainer, tiny_dataset, weights
from trl import DistillationTrainer, GRPOTrainer
from trl.trainer import distillation_trainer as distillation_module

from effopd import trl_hooks


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_signatures_of_the_private_hooks() -> None:
    for trainer in (DistillationTrainer, GRPOTrainer):
        assert parameters(trainer._tokenize_prompts) == ["self", "prompts"]
        assert parameters(trainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]
    single = ["self", "prompt_ids", "images", "multimodal_fields"]
    assert parameters(DistillationTrainer._generate_single_turn) == [*single, "has_tool_images"]
    assert parameters(GRPOTrainer._generate_single_turn) == [*single, "num_generations", "has_tool_images"]
    assert parameters(distillation_module._chunked_divergence_loss)[:7] == [
        "student_hidden_states",
        "teacher_hidden_states",
        "student_lm_head_weight",
        "teacher_lm_head_weight",
        "completion_mask",
        "beta",
        "num_items_in_batch",
    ]


@pytest.mark.parametrize("trainer", [DistillationTrainer, GRPOTrainer])
def test_vllm_takes_weights_when_the_step_differs(trainer: Any) -> None:
    """The rule that `publish_weights` works by, as TRL writes it."""
    source = inspect.getsource(trainer._generate_single_turn)
    assert "self.state.global_step != self._last_loaded_step" in source
    assert "self.vllm_generation.sync_weights()" in source
    assert "self._buffered_inputs is None" in inspect.getsource(trainer._prepare_inputs)


def test_vllm_sampling_takes_generation_kwargs() -> None:
    from trl.generation.vllm_generation import VLLMGeneration

    assert "generation_kwargs.update(self.generation_kwargs)" in inspect.getsource(VLLMGeneration.generate)
    assert "self.generation_kwargs = generation_kwargs or {}" in inspect.getsource(VLLMGeneration.__init__)


@pytest.mark.parametrize("make", [distillation_trainer, grpo_trainer])
def test_generate_depends_on_its_seed_alone(make: Any, tmp_path: Path) -> None:
    trainer = make(tmp_path)
    rows = list(tiny_dataset(11))
    state = torch.get_rng_state()
    first = trl_hooks.generate(trainer, rows, seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert trl_hooks.generate(trainer, rows, seed=5) == first
    assert trl_hooks.generate(trainer, rows, seed=6) != first
    assert [rollout.example for rollout in first] == rows
    for rollout in first:
        assert 1 <= len(rollout.completion_ids) <= 6
        assert ";" not in rollout.completion
        assert trainer.processing_class.decode(rollout.prompt_ids) == rollout.example["prompt"]


def test_divergence_per_rollout_is_the_exact_reverse_kl(tmp_path: Path) -> None:
    """Against a plain computation of each sequence by itself; nothing of training is touched."""
    trainer = distillation_trainer(tmp_path)
    rollouts = trl_hooks.generate(trainer, list(tiny_dataset(11)), seed=0)
    before = weights(trainer)
    trainer._metrics["eval"]["kept"] = [1.0]
    divergences = trl_hooks.divergence_per_rollout(trainer, rollouts)
    assert dict(trainer._metrics["eval"]) == {"kept": [1.0]}
    assert trainer.model.training
    assert_same(before, weights(trainer))
    for rollout, divergence in zip(rollouts, divergences, strict=True):
        ids = torch.tensor([rollout.prompt_ids + rollout.completion_ids])
        first = len(rollout.prompt_ids) - 1
        with torch.no_grad():
            student, teacher = (
                model(ids).logits[0, first:-1].double().log_softmax(-1)
                for model in (trainer.model, trainer.teacher_model)
            )
        expected = (student.exp() * (student - teacher)).sum()
        torch.testing.assert_close(divergence.double(), expected, rtol=1e-4, atol=1e-6)


def test_replaced_loss_is_put_back() -> None:
    original = trl_hooks.divergence_loss()
    with pytest.raises(KeyError), trl_hooks.replaced_loss(lambda *args, **kwargs: (None, None, None)):
        assert trl_hooks.divergence_loss() is not original
        raise KeyError
    assert trl_hooks.divergence_loss() is original
