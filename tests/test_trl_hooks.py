"""Fails loudly when TRL moves one of the private names that effopd.trl_hooks uses."""

import inspect
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from tiny import assert_same, distillation_trainer, grpo_trainer, kl_by_hand, tiny_dataset, weights
from trl import DistillationTrainer, GRPOTrainer
from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import distillation_trainer as distillation_module

from effopd import trl_hooks


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_signatures_of_the_private_hooks() -> None:
    for trainer in (DistillationTrainer, GRPOTrainer):
        assert parameters(trainer._tokenize_prompts) == ["self", "prompts"]
        assert parameters(trainer._load_optimizer_and_scheduler) == ["self", "checkpoint"]
        assert "RepeatSampler(" in inspect.getsource(trainer._get_train_sampler)
        assert "num_update_steps_per_epoch" in parameters(trainer._init_training_state)
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


class SamplingParams(SimpleNamespace):
    def clone(self) -> "SamplingParams":
        return SamplingParams(**vars(self))


class FakeLLM:
    """vLLM's engine: notes each prompt's seed, and answers with one token."""

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
    """TRL's own code around a fake engine."""
    params = partial(SamplingParams, seed=None)
    monkeypatch.setattr(vllm_generation, "SamplingParams", params, raising=False)
    monkeypatch.setattr(VLLMGeneration, "_init_vllm", lambda self: None)
    monkeypatch.setattr(VLLMGeneration, "sync_weights", lambda self: None)
    generation = VLLMGeneration(torch.nn.Identity(), Accelerator(cpu=True), None)
    generation.llm = FakeLLM()
    return generation


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
    trainer.use_vllm, trainer.vllm_generation, trainer._last_loaded_step = True, vllm, -1
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
        with trl_hooks._seeded_vllm(trainer, 5):
            row = {"prompt_token_ids": [2]}
            vllm.llm.generate([row, row], sampling_params=SamplingParams(n=1, seed=None), use_tqdm=False)
        found.append(list(vllm.llm.seeds))
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert len({*found[0], *found[2]}) == 4


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


@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_divergence_per_rollout_is_the_exact_reverse_kl(beta: float, tmp_path: Path) -> None:
    """Against a plain computation of each sequence by itself, whatever trains; nothing of training is touched."""
    trainer = distillation_trainer(tmp_path, beta=beta)
    rollouts = trl_hooks.generate(trainer, [{"prompt": "1+" * (i % 3) + "1="} for i in range(11)], seed=0)
    before = weights(trainer)
    trainer._metrics["eval"]["kept"] = [1.0]
    divergences = trl_hooks.divergence_per_rollout(trainer, rollouts)
    assert dict(trainer._metrics["eval"]) == {"kept": [1.0]}
    assert not trainer._metrics["train"]
    assert trainer.model.training
    trainer.model.eval()
    trl_hooks.divergence_per_rollout(trainer, rollouts[:1])
    assert not trainer.model.training
    assert_same(before, weights(trainer))
    for rollout, divergence in zip(rollouts, divergences, strict=True):
        torch.testing.assert_close(divergence.double(), kl_by_hand(trainer, rollout), rtol=1e-4, atol=1e-6)


def test_replaced_loss_is_put_back() -> None:
    original = trl_hooks.divergence_loss()
    with pytest.raises(KeyError), trl_hooks.replaced_loss(lambda *args, **kwargs: (None, None, None)):
        assert trl_hooks.divergence_loss() is not original
        raise KeyError
    assert trl_hooks.divergence_loss() is original


def test_completions_are_parsed_as_trl_parses_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a `response_template`, rewards are given what it makes of a completion; only in a conversation."""
    trainer = distillation_trainer(tmp_path)
    tokenizer = trainer.processing_class
    ids = tokenizer("12")["input_ids"]
    text, chat = {"prompt": "1+1="}, {"prompt": [{"role": "user", "content": "1+1="}]}

    def completion(example: dict[str, Any]) -> Any:
        (rollout,) = trl_hooks.make_rollouts(trainer, [example], [[2]], [ids])
        return rollout.completion

    assert completion(chat) == [{"role": "assistant", "content": "12"}]

    def parse(ids: list[int], prefix: list[int], **kwargs: Any) -> dict[str, str]:
        assert prefix == [2]
        return {"role": "assistant", "thinking": "1", "content": tokenizer.decode(ids)[1:]}

    monkeypatch.setattr(tokenizer, "response_template", {}, raising=False)
    monkeypatch.setattr(tokenizer, "parse_response", parse)
    assert completion(chat) == [{"role": "assistant", "thinking": "1", "content": "2"}]
    assert completion(text) == "12"


def test_prompts_go_in_batches_of_what_training_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = distillation_trainer(tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2)
    sizes: list[int] = []
    tokenize = trainer._tokenize_prompts
    monkeypatch.setattr(trainer, "_tokenize_prompts", lambda prompts: sizes.append(len(prompts)) or tokenize(prompts))
    trl_hooks.generate(trainer, list(tiny_dataset(11)), seed=0)
    assert sizes == [8, 3]


def test_the_order_of_prompts_is_looked_after_once(tmp_path: Path) -> None:
    trainer = distillation_trainer(tmp_path)
    trl_hooks.on_resume(trainer, print)
    initialize = trainer._init_training_state
    trl_hooks.on_resume(trainer, print)
    assert trainer._init_training_state is initialize
