"""What follows when weights were changed in place. Its effect on training is tested in tests/extrapolation."""

from types import SimpleNamespace

import torch
from accelerate import Accelerator

from effopd import trl_hooks


def test_vllm_loads_the_weights_again() -> None:
    trainer = SimpleNamespace(_last_loaded_step=3, model_wrapped=torch.nn.Linear(1, 1))
    trl_hooks.publish_weights(trainer)
    assert trainer._last_loaded_step == -1
    without = SimpleNamespace(model_wrapped=torch.nn.Linear(1, 1))
    trl_hooks.publish_weights(without)
    assert not hasattr(without, "_last_loaded_step")


def grpo_in_the_middle(step: int, global_step: int = 1) -> SimpleNamespace:
    """What is asked of GRPO when two micro-batches with two completions of three tokens are buffered."""
    batch = {"completion_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}
    return SimpleNamespace(
        _buffered_inputs=[batch, batch],
        _step=step,
        num_iterations=2,
        args=SimpleNamespace(steps_per_generation=2),
        state=SimpleNamespace(global_step=global_step, max_steps=9),
        accelerator=Accelerator(cpu=True),
    )


def test_dropped_rollouts_cost_what_they_replace() -> None:
    trainer = grpo_in_the_middle(step=3)
    assert trl_hooks.discard_rollouts(trainer) == (4, 6)
    assert trainer._buffered_inputs is None
    assert trl_hooks.discard_rollouts(trainer) == (0, 0)


def test_rollouts_that_would_not_have_been_used_again_cost_nothing() -> None:
    for trainer in (grpo_in_the_middle(step=4), grpo_in_the_middle(step=3, global_step=9)):
        assert trl_hooks.discard_rollouts(trainer) == (0, 0)
        assert trainer._buffered_inputs is None
