"""A teacher that does not come from the base: a sibling, pretrained from another random seed on cleaner data."""

from dataclasses import dataclass, field, replace

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from effopd.checks import check_number, check_whole
from effopd.world.model import ModelSize
from effopd.world.pretrain import PretrainingConfig, pretrain
from effopd.world.task import TaskConfig


@dataclass(frozen=True)
class SiblingConfig:
    """Settings of a teacher that is pretrained on right facts, and on answers that are all written step by step.

    Attributes:
        seed_distance: Number that is added to the world's seed to seed the teacher's weights and data, at least 1.
        noise: Probability that a digit of the teacher's pretraining completions is replaced, in [0, 1).
        model_size: Sizes of the teacher, which need not be those of the base.
        pretraining: Settings of the teacher's training.

    Raises:
        ConfigurationError: A value is outside its range.
    """

    seed_distance: int = 1
    noise: float = 0.002
    model_size: ModelSize = field(default_factory=ModelSize)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)

    def __post_init__(self) -> None:
        check_whole("seed_distance", self.seed_distance, 1)
        check_number("noise", self.noise, low=0, below=1)


def train_sibling(
    tokenizer: PreTrainedTokenizerFast, task: TaskConfig, config: SiblingConfig, seed: int, device: torch.device
) -> tuple[LlamaForCausalLM, list[float]]:
    """Pretrain a sibling of a world's base.

    Args:
        tokenizer: Tokenizer of the world.
        task: Settings of the task that the base learned, unsure facts and slips included.
        config: Settings of the sibling.
        seed: Random seed of the world.
        device: Device to train on.

    Returns:
        What `pretrain` returns.
    """
    clean = replace(task, num_unsure_facts=0, noise=config.noise, step_by_step_share=1.0)
    return pretrain(tokenizer, config.model_size, clean, config.pretraining, seed + config.seed_distance, device)
