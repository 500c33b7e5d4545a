"""TRL's own code around an engine that stands in for vLLM's."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration


class SamplingParams(SimpleNamespace):
    def clone(self) -> "SamplingParams":
        return SamplingParams(**vars(self))


def around(llm: Any, monkeypatch: pytest.MonkeyPatch) -> VLLMGeneration:
    """TRL's own code around an engine, which asks for no log-probabilities, as DistillationTrainer does."""
    params = partial(SamplingParams, seed=None)
    monkeypatch.setattr(vllm_generation, "SamplingParams", params, raising=False)
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", lambda self: None)
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    generation = VLLMGeneration(torch.nn.Identity(), Accelerator(cpu=True), None, logprobs=None)
    generation.llm = llm
    return generation


def sample_with(trainer: Any, generation: VLLMGeneration) -> None:
    """Let a trainer that was made without vLLM sample by it."""
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, generation, -1
