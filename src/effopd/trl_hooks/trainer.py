"""Small things asked of any TRL trainer: its way of sampling, its tokenizer, its log, its tags, its random numbers."""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from trl import DistillationTrainer, GRPOTrainer, RLOOTrainer
from trl.trainer.callbacks import SyncRefModelCallback

TESTED_TRAINERS = (DistillationTrainer, GRPOTrainer, RLOOTrainer)
"""The trainers that extrapolation is tested with."""

SAMPLING_METHODS = ("_tokenize_prompts", "_generate_single_turn", "_prepare_inputs")
"""The methods that sample for validation, and the one that keeps rollouts for later steps."""


def can_sample(trainer: Any) -> bool:
    """Whether the trainer has the method that `generate` samples by, TRL's `_generate_single_turn`."""
    return hasattr(trainer, "_generate_single_turn")


def samples_as_tested(trainer: Any) -> bool:
    """Whether the trainer's class has all of `SAMPLING_METHODS` from one of `TESTED_TRAINERS`, unchanged."""
    kind = type(trainer)
    return any(
        all(getattr(kind, name, None) is getattr(tested, name) for name in SAMPLING_METHODS)
        for tested in TESTED_TRAINERS
    )


def tokenizer(trainer: Any) -> Any:
    """Return the trainer's tokenizer, which is a part of its `processing_class` if that is a processor."""
    return trainer._tokenizer


def seconds_since(started: float, trainer: Any) -> float:
    """Wait for what a GPU was given until now, and return the seconds since `time.perf_counter()` gave `started`."""
    if trainer.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def log_metric(trainer: Any, name: str, value: float) -> None:
    """Add a value to the trainer's next log, which has the mean of the values added under one name."""
    trainer._metrics["train"][name].append(value)


def add_tag(trainer: Any, tag: str) -> None:
    """Tag the trainer's model, for the cards that transformers and TRL write when they push it or save a checkpoint."""
    if hasattr(trainer.model, "add_model_tags"):  # that of transformers, whose models alone are pushed
        trainer.model.add_model_tags([tag])
        trainer._tag_names = [*(each for each in getattr(trainer, "_tag_names", ()) if each != tag), tag]


def sync_reference_last(trainer: Any) -> None:
    """Let a reference model (`sync_ref_model` of GRPO) be synced after all other callbacks, with the accepted weights.

    A loop over the trainer's callbacks that is under way is not affected.
    """
    handler = trainer.callback_handler
    handler.callbacks = sorted(handler.callbacks, key=lambda callback: isinstance(callback, SyncRefModelCallback))


@contextmanager
def seeded_per_process(trainer: Any, seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python within the context, each process differently; give back their states afterwards.

    Args:
        trainer: A trainer, whose device's generator is seeded too if it is a GPU.
        seed: Random seed, the same on every process; the process's number is mixed into it.
    """
    device = trainer.accelerator.device
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (reward functions may use the global state)
    seed = (seed * 1_000_003 + trainer.accelerator.process_index) % 2**31
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for set_seed in (torch.manual_seed, random.seed, np.random.seed):
            set_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002
