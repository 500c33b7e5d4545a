"""Models and trainers small enough for tests: the world's tokenizer, a random two-layer Llama, TRL's real trainers."""

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM
from trl import DistillationConfig, DistillationTrainer, GRPOConfig, GRPOTrainer

from effopd.world.model import ModelSize, make_model
from effopd.world.tokenizer import make_tokenizer

SIZE = ModelSize(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=2)


def tiny_model(seed: int, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    """A random model on the world's vocabulary."""
    torch.manual_seed(seed)
    return make_model(SIZE, make_tokenizer(), max_length=64).to(dtype)


def tiny_dataset(num_rows: int = 64) -> Dataset:
    """One-digit sums, every prompt of the same length."""
    return Dataset.from_list(
        [{"prompt": f"{i % 10}+{i * 7 % 10}=", "answer": str(i * 8 % 10)} for i in range(num_rows)]
    )


def contains_answer(completions: list[str], answer: list[str], **kwargs: Any) -> list[float]:
    """A reward that random models sometimes earn."""
    return [float(a in c) for c, a in zip(completions, answer, strict=True)]


def settings(out: Path, **overrides: Any) -> dict[str, Any]:
    """Training arguments common to the trainers below."""
    return {
        "output_dir": str(out),
        "per_device_train_batch_size": 8,
        "max_steps": 6,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "max_completion_length": 6,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    } | overrides


def distillation_trainer(out: Path, model: Any = None, num_rows: int = 64, **overrides: Any) -> DistillationTrainer:
    """Plain TRL distillation of one random model from another."""
    return DistillationTrainer(
        model=model or tiny_model(0),
        teacher_model=tiny_model(1),
        args=DistillationConfig(**settings(out, **overrides)),
        train_dataset=tiny_dataset(num_rows),
        processing_class=make_tokenizer(),
    )


def grpo_trainer(
    out: Path, rewards: Any = contains_answer, model: Any = None, peft_config: Any = None, **overrides: Any
) -> GRPOTrainer:
    """Plain TRL GRPO of a random model."""
    return GRPOTrainer(
        model=model or tiny_model(0),
        peft_config=peft_config,
        reward_funcs=rewards,
        args=GRPOConfig(**settings(out, num_generations=4, **overrides)),
        train_dataset=tiny_dataset(),
        processing_class=make_tokenizer(),
    )


def kl_by_hand(trainer: Any, rollout: Any) -> torch.Tensor:
    """Reverse KL to the teacher over a completion, from full distributions of this sequence alone, in nats."""
    ids, completion = rollout.prompt_ids + rollout.completion_ids, slice(len(rollout.prompt_ids) - 1, -1)
    with torch.no_grad():
        student, teacher = (
            (model(torch.tensor([ids])).logits[0, completion].double() / trainer.temperature).log_softmax(-1)
            for model in (trainer.model, trainer.teacher_model)
        )
    return (student.exp() * (student - teacher)).sum()


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    """A copy of the trainer's weights."""
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert left.keys() == right.keys()
    differing = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differing, differing
