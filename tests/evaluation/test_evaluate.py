"""Evaluating a model in memory: seeds, lengths, KL, chat templates, and what is left untouched."""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny_models import make_tokenizer, write_tiny_qwen3
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from effopd import world
from effopd.errors import ConfigurationError, DataError, DivergedError
from effopd.evaluation import Evaluation, Task, evaluate, load_task
from effopd.evaluation.backends import TransformersBackend
from effopd.evaluation.divergence import reverse_kl
from effopd.evaluation.prompts import encode_prompts
from effopd.evaluation.sample_batches import SampleBatches
from effopd.grading import Verdict

WORLD = load_task("world", limit=60)


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(world.base_dir())


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(world.teacher_dir())


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(world.base_dir())


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    path = write_tiny_qwen3(tmp_path_factory.mktemp("qwen"))
    return AutoModelForCausalLM.from_pretrained(path, dtype="float32")


def grade(completions: Sequence[str], answers: Sequence[Any]) -> list[Verdict]:
    return [Verdict(str(answer) in completion, "kind") for completion, answer in zip(completions, answers, strict=True)]


def text_task(*prompts: Any, max_new_tokens: int = 8) -> Task:
    return Task("text", list(prompts), ["7"] * len(prompts), grade, max_new_tokens)


def without_kl(evaluation: Evaluation) -> list[Any]:
    return [replace(record, kl=None) for record in evaluation.records]


def test_the_world(
    base: PreTrainedModel, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, qwen: PreTrainedModel
) -> None:
    result = evaluate(base, tokenizer, WORLD, num_samples=3, teacher=teacher)
    assert [(record.prompt, record.sample) for record in result.records] == [
        (p, s) for p in range(60) for s in range(3)
    ]
    assert result.mean == pytest.approx(world.card()["base"]["sampled_accuracy"]["accuracy"], abs=0.15)
    assert result.pass_at(3) > result.mean
    assert len({record.completion for record in result.records if record.prompt == 0}) > 1
    ids = [tokenizer(record.completion)["input_ids"] for record in result.records]
    prompts = [tokenizer(WORLD.prompts[record.prompt])["input_ids"] for record in result.records]
    ended = [[*tokens, tokenizer.eos_token_id] for tokens in ids]
    assert result.truncation_rate == 0
    assert [record.num_tokens for record in result.records] == list(map(len, ended))
    assert [record.kl for record in result.records] == pytest.approx(
        reverse_kl(base, teacher, prompts, ended), rel=1e-3
    )
    assert result.kl_per_token is not None
    assert result.kl_per_sequence == pytest.approx(result.kl_per_token * result.num_tokens)
    assert evaluate(teacher, tokenizer, WORLD, teacher=teacher).kl_per_token == pytest.approx(0.0, abs=1e-6)
    assert evaluate(teacher, tokenizer, WORLD).mean > result.mean + 0.1


def test_equal_arguments_give_equal_results(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    state, settings = torch.get_rng_state(), {"num_samples": 2, "batch_size": 50}
    result = evaluate(base, tokenizer, WORLD, **settings)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert evaluate(base, tokenizer, WORLD, **settings) == result
    assert evaluate(base, tokenizer, WORLD, **settings, seed=1).records != result.records


def test_a_teacher_changes_nothing_else(
    base: PreTrainedModel, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    plain = evaluate(base, tokenizer, WORLD)
    assert without_kl(evaluate(base, tokenizer, WORLD, teacher=teacher)) == plain.records
    assert plain.records[0].kl is None


def test_any_batch_can_be_done_again_alone(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    batches = SampleBatches(WORLD, tokenizer, num_samples=2, seed=0, batch_size=50, temperature=1.0)
    backend = TransformersBackend(base, tokenizer)
    assert [len(batch) for batch in batches.items] == [50, 50, 20]
    last = batches.run(2, backend)
    whole = [batches.run(index, backend) for index in range(3)]
    assert last == whole[2]
    assert whole[0] != whole[1]


def test_truncation(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    result = evaluate(base, tokenizer, replace(WORLD, max_new_tokens=4))
    for record in result.records:
        direct = record.completion.startswith("#")
        assert record.truncated == (not direct)
        assert record.num_tokens == (3 if direct else 4)
    assert 0 < result.truncation_rate < 1


def test_greedy(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    result = evaluate(base, tokenizer, WORLD, temperature=0)
    assert evaluate(base, tokenizer, WORLD, temperature=0, seed=5, batch_size=7) == result
    with pytest.raises(ConfigurationError, match="2 samples would be equal"):
        evaluate(base, tokenizer, WORLD, temperature=0, num_samples=2)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("broken", ["student", "teacher"])
def test_logits_that_are_not_finite_are_named(
    broken: str, temperature: float, teacher: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    damaged = copy.deepcopy(teacher)
    damaged.lm_head.weight.data.fill_(math.nan)
    student, guide = (damaged, None) if broken == "student" else (teacher, damaged)
    with pytest.raises(DivergedError, match="logits are not finite" if broken == "student" else "KL .* is not finite"):
        evaluate(student, tokenizer, WORLD, teacher=guide, temperature=temperature)


def test_more_tokens_than_a_model_has_positions_for_are_refused(tokenizer: PreTrainedTokenizerBase) -> None:
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=10, n_embd=8, n_layer=1, n_head=1)
    with pytest.raises(ConfigurationError, match="more than the model has positions for"):
        evaluate(GPT2LMHeadModel(config), tokenizer, WORLD)


def test_padding_does_not_change_what_is_generated(qwen: PreTrainedModel) -> None:
    task = text_task("What is 7 times 8?", "Hi", "Please reason step by step, and then some more.")
    together = evaluate(qwen, make_tokenizer(), task, temperature=0)
    assert evaluate(qwen, make_tokenizer(), task, temperature=0, batch_size=1) == together


def test_the_models_own_generation_settings_are_not_followed(
    qwen: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = evaluate(qwen, make_tokenizer(), text_task("What is", "Hi"), num_samples=8)
    own = type(qwen.generation_config)(top_k=1, repetition_penalty=5.0, min_p=0.9, eos_token_id=0, max_length=3)
    monkeypatch.setattr(qwen, "generation_config", own)
    assert evaluate(qwen, make_tokenizer(), text_task("What is", "Hi"), num_samples=8) == plain
    assert qwen.generation_config is own


def test_the_mode_of_the_model_is_left(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    base.train()
    try:
        evaluate(base, tokenizer, load_task("world", limit=2))
        assert base.training
    finally:
        base.eval()


def test_every_token_that_ends_a_completion_counts(qwen: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chat models end at one token by the tokenizer, and at another by their generation settings."""
    everything = list(range(qwen.config.vocab_size))
    monkeypatch.setattr(qwen, "generation_config", type(qwen.generation_config)(eos_token_id=everything))
    result = evaluate(qwen, make_tokenizer(), text_task("What is", "Hi"))
    assert [record.num_tokens for record in result.records] == [1, 1]
    assert result.truncation_rate == 0


def test_a_tokenizer_without_padding_token(qwen: PreTrainedModel) -> None:
    tokenizer = make_tokenizer()
    expected = evaluate(qwen, tokenizer, text_task("What is", "Hi"))
    tokenizer.pad_token = None
    assert evaluate(qwen, tokenizer, text_task("What is", "Hi")) == expected


def test_every_batch_has_a_seed_of_its_own(qwen: PreTrainedModel) -> None:
    records = evaluate(qwen, make_tokenizer(), text_task("Hi"), num_samples=8, batch_size=1).records
    assert len({record.completion for record in records}) > 4


def test_prompts_as_text_and_as_messages() -> None:
    tokenizer = make_tokenizer()
    text, chat = encode_prompts(tokenizer, ["Hi", [{"role": "user", "content": "Hi"}]])
    assert tokenizer.decode(text) == "Hi"
    assert tokenizer.decode(chat) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    tokenizer.chat_template = None
    with pytest.raises(ConfigurationError, match="no chat template"):
        encode_prompts(tokenizer, [[{"role": "user", "content": "Hi"}]])
    with pytest.raises(DataError, match="Prompt 1"):
        encode_prompts(tokenizer, ["Hi", ""])
    with pytest.raises(DataError, match=r"Prompt 1 .*cannot be made into tokens: .*'1 \+ \\ud800'"):
        encode_prompts(tokenizer, ["Hi", "1 + \ud800"])
    with pytest.raises(DataError, match=r"Prompt 0 .*cannot be made into tokens: .*no key"):
        tokenizer.chat_template = "{{ raise_exception('no key') }}"
        encode_prompts(tokenizer, [[{"role": "user", "content": "Hi"}]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_samples": 0}, "num_samples: got 0"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"seed": -1}, "seed: got -1"),
        ({"temperature": -0.5}, "temperature: got -0.5"),
        ({"temperature": float("nan")}, "temperature: got nan"),
    ],
)
def test_wrong_arguments(
    base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        evaluate(base, tokenizer, WORLD, **settings)


def test_a_task_needs_as_many_answers_as_prompts() -> None:
    with pytest.raises(DataError, match="got 2 prompts and 1 answers"):
        Task("t", ["a", "b"], ["1"], grade, 5)
    with pytest.raises(ConfigurationError, match="max_new_tokens: got 0"):
        Task("t", ["a"], ["1"], grade, 0)


def test_the_example_of_the_package(tmp_path: Path) -> None:
    import effopd.evaluation as package

    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        package.nothing  # noqa: B018
