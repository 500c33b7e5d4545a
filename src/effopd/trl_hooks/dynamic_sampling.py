"""DAPO's dynamic sampling: prompts whose samples are all rewarded alike teach nothing, and are replaced."""

import logging
import random
from typing import Any

import torch
from accelerate.utils import gather, reduce

from effopd.trl_hooks.trainer import log_metric

logger = logging.getLogger(__name__)


def replace_equal_groups(
    trainer: Any,
    examples: list[dict[str, Any]],
    prompts: list[Any],
    output: tuple[Any, ...],
    max_rounds: int,
    num_shaping: int,
) -> torch.Tensor:
    """Replace groups of equal rewards by groups of other prompts, until none is left (arXiv 2503.14476, equation 11).

    The prompts are drawn from the training set by Python's random numbers, whose state a checkpoint has. Every process
    samples as many groups as the one that lacks most, so that this is collective. What is left when `max_rounds` are
    over stays, and trains nothing: all samples of such a group get its mean rewards, so that its advantages are 0.

    Args:
        trainer: A `HookedGRPOTrainer` that is about to score what it has sampled.
        examples: Rows of the dataset of this process's rollouts, changed in place.
        prompts: Their prompts, changed in place.
        output: What TRL's `_generate` returned for them, whose lists are changed in place.
        max_rounds: How often to sample, at most.
        num_shaping: Number of reward functions, the last ones, by which groups are not compared.

    Returns:
        The rewards of all processes' rollouts by each function, as TRL's `_calculate_rewards` returns them.
    """
    size = trainer.num_generations
    rewards_BF, columns = _rewards(trainer, examples, prompts, output)
    num_replaced = 0
    for number_of_round in range(max_rounds + 1):
        differs = _differs(trainer, rewards_BF, num_shaping)
        equal = [group for group, differ in enumerate(differs) if not differ]
        wanted = int(gather(torch.tensor([len(equal)], device=rewards_BF.device)).max())
        if not wanted or number_of_round == max_rounds:
            break
        rows = random.sample(range(len(trainer.train_dataset)), wanted)
        new_examples = [trainer.train_dataset[row] for row in rows for _ in range(size)]
        new_prompts = [example["prompt"] for example in new_examples]
        new_output = trainer._effopd_sample(new_prompts)
        new_rewards_BF, new_columns = _rewards(trainer, new_examples, new_prompts, new_output)
        usable = [group for group, differ in enumerate(_differs(trainer, new_rewards_BF, num_shaping)) if differ]
        for to, since in zip(equal, usable, strict=False):
            old, new = slice(to * size, (to + 1) * size), slice(since * size, (since + 1) * size)
            rewards_BF[old] = new_rewards_BF[new]
            pairs = [*zip((examples, prompts, *output), (new_examples, new_prompts, *new_output), strict=True)]
            pairs += [(columns[name], new_columns[name]) for name in columns.keys() & new_columns.keys()]
            for kept, drawn in pairs:
                if isinstance(kept, list) and len(kept) == len(examples):
                    kept[old] = drawn[new]
            num_replaced += 1
    log_metric(trainer, "dynamic_sampling/rounds", number_of_round)
    counts = reduce(torch.tensor([num_replaced, len(equal)], device=rewards_BF.device), "sum")
    for name, value in zip(("replaced_groups", "equal_groups_left"), counts.tolist(), strict=True):
        log_metric(trainer, f"dynamic_sampling/{name}", value)
    if wanted and trainer.accelerator.is_main_process:
        logger.warning(
            "Step %d: after %d rounds of dynamic sampling, prompts are left whose samples are all rewarded alike. They "
            "train nothing.", trainer.state.global_step + 1, max_rounds,
        )  # fmt: skip
    for group in equal:
        rows_of_group = slice(group * size, (group + 1) * size)
        rewards_BF[rows_of_group] = rewards_BF[rows_of_group].nanmean(0)  # shaping may tell them apart
    trainer._pending_extra_logs.update(columns)
    everywhere: torch.Tensor = gather(rewards_BF)
    return everywhere


def _rewards(
    trainer: Any, examples: list[Any], prompts: list[Any], output: tuple[Any, ...]
) -> tuple[torch.Tensor, dict[str, list[Any]]]:
    """Compute the rewards of this process's rollouts by each function, [B, F], and take what functions logged of them.

    TRL's table of completions has a row for each rollout that is trained on, so that what was logged is put together
    for those.
    """
    everywhere = trainer._calculate_rewards(examples, prompts, output[3], output[1])
    columns = {name: list(values) for name, values in trainer._pending_extra_logs.items()}
    trainer._pending_extra_logs.clear()
    start = trainer.accelerator.process_index * len(prompts)
    return everywhere[start : start + len(prompts)].clone(), columns


def _differs(trainer: Any, rewards_BF: torch.Tensor, num_shaping: int) -> list[bool]:
    """Whether the rewards within each group differ; what no function rewarded is not compared."""
    num_functions = rewards_BF.shape[1] - num_shaping
    rewards_BF = rewards_BF[:, :num_functions]
    sums_B = (rewards_BF * trainer.reward_weights[:num_functions].to(rewards_BF.device)).nansum(1)
    unknown_B = rewards_BF.isnan().all(1)
    highest = sums_B.masked_fill(unknown_B, -torch.inf).view(-1, trainer.num_generations).amax(1)
    lowest = sums_B.masked_fill(unknown_B, torch.inf).view(-1, trainer.num_generations).amin(1)
    differs: list[bool] = (highest > lowest).tolist()
    return differs
