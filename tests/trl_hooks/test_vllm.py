"""TRL's own code around a fake vLLM engine: every prompt gets a seed of its own."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_vllm import SamplingParams, around, sample_with
from tiny import distillation_trainer, grpo_trainer, tiny_dataset
from trl.generation.vllm_generation import VLLMGeneration

from effopd import trl_hooks
from effopd.trl_hooks.vllm import seed_for_each_prompt


class FakeLLM:
    """In place of vLLM's engine: it notes each prompt's seed, and answers with one token."""

    def __init__(self) -> None:
        self.seeds: list[int | None] = []
        self.broken = False

    def generate(self, prompts: list[Any], sampling_params: Any, use_tqdm: bool) -> list[Any]:
        if self.broken:
            raise KeyError
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        assert [params.n for params in each] == [1] * len(prompts)
        self.seeds += [params.seed for params in each]
        output = SimpleNamespace(token_ids=[1], logprobs=[{1: SimpleNamespace(rank=1, logprob=0.0)}])
        return [SimpleNamespace(prompt_token_ids=row["prompt_token_ids"], outputs=[output]) for row in prompts]


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> VLLMGeneration:
    return around(FakeLLM(), monkeypatch)


def sampled_seeds(trainer: Any, seed: int, process: int = 0) -> list[int]:
    llm = trainer.vllm_generation.llm
    llm.seeds.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(trainer.accelerator), "process_index", process)
        assert len(trl_hooks.generate(trainer, list(tiny_dataset(11)), seed)) == 11
    return list(llm.seeds)


@pytest.mark.parametrize("make", [distillation_trainer, grpo_trainer])
def test_every_prompt_of_vllm_has_a_seed_of_its_own(make: Any, vllm: VLLMGeneration, tmp_path: Path) -> None:
    trainer = make(tmp_path)
    sample_with(trainer, vllm)
    vllm.logprobs = 0 if make is grpo_trainer else None
    original = vllm.llm.generate
    first = sampled_seeds(trainer, 5)
    assert sampled_seeds(trainer, 5) == first
    assert len({*first, *sampled_seeds(trainer, 6), *sampled_seeds(trainer, 5, process=1)}) == 33
    assert all(0 <= seed < 2**31 for seed in first)
    vllm.llm.broken = True
    with pytest.raises(KeyError):
        trl_hooks.generate(trainer, list(tiny_dataset(2)), 5)
    assert vllm.llm.generate == original
    vllm.llm.broken = False
    trainer._generate_single_turn([[2]], None, {}, **({"num_generations": 1} if make is grpo_trainer else {}))
    assert vllm.llm.seeds[-1] is None


def test_processes_that_share_an_engine_share_its_seeds(vllm: VLLMGeneration) -> None:
    vllm.tensor_parallel_size = 2
    found = []
    for process in range(4):
        trainer = SimpleNamespace(vllm_generation=vllm, accelerator=SimpleNamespace(process_index=process))
        vllm.llm.seeds.clear()
        with seed_for_each_prompt(trainer, 5):
            row = {"prompt_token_ids": [2]}
            vllm.llm.generate([row, row], sampling_params=SamplingParams(n=1, seed=None), use_tqdm=False)
        found.append(list(vllm.llm.seeds))
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len({*found[0], *found[2]}) == 4
