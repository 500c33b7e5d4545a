"""Sampling completions from a trainer's live weights, and decoding them as TRL does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import distillation_trainer, grpo_trainer, tiny_dataset, tiny_model
from trl import chat_template_utils

from effopd import trl_hooks


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


@pytest.mark.parametrize("attribute", ["response_template", "response_schema"])
def test_completions_are_parsed_as_trl_parses_them(
    attribute: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the tokenizer says how, rewards are given what that makes of a completion; only in a conversation."""
    trainer = distillation_trainer(tmp_path)
    tokenizer = trainer.processing_class
    ids = tokenizer("12")["input_ids"]
    text, chat = {"prompt": "1+1="}, {"prompt": [{"role": "user", "content": "1+1="}]}

    def completion(example: dict[str, Any]) -> Any:
        (rollout,) = trl_hooks.make_rollouts(trainer, [example], [[2]], [ids])
        return rollout.completion

    assert completion(chat) == [{"role": "assistant", "content": "12"}]

    def parse(ids: list[int], prefix: list[int] | None = None, **kwargs: Any) -> dict[str, str]:
        by_template = attribute == "response_template" and chat_template_utils._SUPPORTS_RESPONSE_TEMPLATE
        assert prefix == ([2] if by_template else None)
        return {"role": "assistant", "thinking": "1", "content": tokenizer.decode(ids)[1:]}

    monkeypatch.setattr(tokenizer, attribute, {}, raising=False)
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


@pytest.mark.parametrize("adapter", [False, True])
def test_only_the_last_logits_of_a_prompt_are_computed(adapter: bool, tmp_path: Path) -> None:
    model = tiny_model(0)
    if adapter:
        model = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trainer = distillation_trainer(tmp_path, model=model)
    lengths: list[int] = []
    head = (model.get_base_model() if adapter else model).lm_head
    head.register_forward_hook(lambda module, inputs, output: lengths.append(output.shape[1]))
    trl_hooks.generate(trainer, list(tiny_dataset(4)), seed=0)
    assert set(lengths) == {1}


def test_completions_are_sampled_without_dropout(tmp_path: Path) -> None:
    """At a temperature of nearly 0, no seed matters."""
    lora = LoraConfig(r=2, lora_dropout=0.5, init_lora_weights=False, target_modules=["q_proj"], task_type="CAUSAL_LM")
    trainer = distillation_trainer(tmp_path, model=get_peft_model(tiny_model(0), lora), temperature=1e-4)
    rows = list(tiny_dataset(8))
    trainer.model.train()
    first, second = ([rollout.completion for rollout in trl_hooks.generate(trainer, rows, seed)] for seed in (1, 2))
    assert first == second
    assert trainer.model.training
