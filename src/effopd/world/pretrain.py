"""Pretraining of the base, which learns to imitate completions in both styles, slips included."""

import math
import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from effopd.checks import check_number, check_whole
from effopd.console import progress_bar
from effopd.world.model import ModelSize, make_model
from effopd.world.second_skill import sample_second_problem, second_answer, second_completion_length
from effopd.world.task import TaskConfig, sample_problem, write_completion

IGNORED_LABEL = -100


@dataclass(frozen=True)
class PretrainingConfig:
    """Settings of the base's training by AdamW, with a linear warm-up and a cosine decay to zero.

    The step-by-step skill appears only after several hundred steps. On-policy distillation needs a base that has come
    so far: it brings out a skill that is there, and would otherwise have to teach it.

    Attributes:
        num_steps: Number of optimizer steps, at least 1.
        batch_size: Number of new problems in each step, at least 1.
        learning_rate: Peak learning rate, above 0.
        warmup_steps: Number of warm-up steps, at least 0.
        weight_decay: Weight decay of AdamW, at least 0.
        max_grad_norm: Norm that gradients are clipped to, above 0.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    num_steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        check_whole("num_steps", self.num_steps, 1)
        check_whole("batch_size", self.batch_size, 1)
        check_whole("warmup_steps", self.warmup_steps, 0)
        check_number("learning_rate", self.learning_rate, above=0)
        check_number("max_grad_norm", self.max_grad_norm, above=0)
        check_number("weight_decay", self.weight_decay, low=0)

    def learning_rate_factor(self, step: int) -> float:
        """Return what the peak learning rate is multiplied by at a step, counted from 0: a number in [0, 1]."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(self.num_steps - self.warmup_steps, 1)
        return 0.5 * (1.0 + math.cos(math.pi * progress))


def pretrain(
    tokenizer: PreTrainedTokenizerFast,
    size: ModelSize,
    task: TaskConfig,
    config: PretrainingConfig,
    seed: int,
    device: torch.device,
) -> tuple[LlamaForCausalLM, list[float]]:
    """Train a base from scratch on problems of the train split, after seeding torch's global generator.

    Args:
        tokenizer: Tokenizer of the world.
        size: Sizes of the model.
        task: Settings of the task.
        config: Settings of the training.
        seed: Random seed of the weights and the problems.
        device: Device to train on.

    Returns:
        The model, and for every step the mean cross-entropy in nats per completion token.
    """
    torch.manual_seed(seed)
    rng = random.Random(seed)
    length = 2 * task.num_operations + 2 + task.max_completion_length
    second_length = task.sorted_digits + 2 + second_completion_length(task)
    model = make_model(size, tokenizer, max_length=max(length, second_length, 64)).to(device)
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, config.learning_rate_factor)
    losses = []
    with progress_bar("steps") as progress:
        for _ in progress.track(range(config.num_steps), description="pretraining the base"):
            input_ids, labels = make_batch(tokenizer, task, config.batch_size, rng)
            loss = model(input_ids=input_ids.to(device), labels=labels.to(device)).loss
            loss.backward()
            clip_grad_norm_(model.parameters(), config.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    model.eval()
    return model, losses


def make_batch(
    tokenizer: PreTrainedTokenizerFast, task: TaskConfig, batch_size: int, rng: random.Random
) -> tuple[Tensor, Tensor]:
    """Make one pretraining batch.

    Args:
        tokenizer: Tokenizer of the world.
        task: Settings of the task.
        batch_size: Number of problems.
        rng: Generator that problems, styles and slips are drawn from.

    Returns:
        Token ids and labels, both int64 [batch_size, length], padded on the right. The last `second_skill_share` of the
        rows are of the second skill. Labels are -100 on prompts and padding, so that only completions are learned.
    """
    num_second = round(task.second_skill_share * batch_size)
    prompts = [sample_problem("train", rng, task) for _ in range(batch_size - num_second)]
    texts = [prompt + write_completion(prompt, rng, task) for prompt in prompts]
    for _ in range(num_second):
        prompts.append(sample_second_problem("train", rng, task))
        texts.append(f"{prompts[-1]}{second_answer(prompts[-1])};")
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED_LABEL)
    for row, prompt in enumerate(prompts):
        labels[row, : len(prompt)] = IGNORED_LABEL
    return batch["input_ids"], labels
