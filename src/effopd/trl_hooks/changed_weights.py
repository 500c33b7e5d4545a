"""What has to follow when weights were changed in place: copies of them are renewed, and old rollouts dropped."""

from typing import Any

import torch
from accelerate.utils import reduce
from torch.distributed.fsdp import FSDPModule


def publish_weights(trainer: Any) -> None:
    """Make everything that holds a copy of the weights take them again.

    vLLM is sent weights only when the step number changes, and all candidates of one trigger share a step number.
    FSDP2 keeps the root's gathered parameters after a forward pass that no backward pass follows.
    """
    if hasattr(trainer, "_last_loaded_step"):
        trainer._last_loaded_step = -1
    for module in trainer.model_wrapped.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def discard_rollouts(trainer: Any) -> tuple[int, int]:
    """Drop rollouts that were sampled from earlier weights and wait to be trained on. This is collective.

    GRPO and RLOO sample for several steps at a time (`steps_per_generation`, `num_iterations`). After a jump in the
    middle of these steps they sample all of them anew, which plain training would not have done.

    Returns:
        The cost of sampling anew, summed over all processes: the number of completions, and an estimate of their
        tokens, which is the number of tokens in the completions that they replace. Both are 0 where the trainer was
        about to sample anyway, or where training ends here.
    """
    buffered, trainer._buffered_inputs = getattr(trainer, "_buffered_inputs", None), None
    args, state = trainer.args, trainer.state
    steps = getattr(args, "steps_per_generation", None)  # DistillationTrainer has none: it samples for every step
    if not buffered or steps is None or state.global_step >= state.max_steps:
        return 0, 0
    if trainer._step % (steps * trainer.num_iterations) == 0:
        return 0, 0
    masks = [batch["completion_mask"] for batch in buffered]
    counts = torch.tensor([sum(map(len, masks)), sum(int(mask.sum()) for mask in masks)])
    completions, tokens = reduce(counts.to(trainer.accelerator.device), "sum").tolist()
    return completions, tokens
