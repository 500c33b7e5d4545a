"""A vLLM engine that follows a model in memory: in place, or from a directory where that does not work."""

import warnings
from pathlib import Path

import pytest
import torch
from evaluation.fake_vllm import install
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd.evaluation.vllm_backend import VLLMBackend
from effopd.world import base_dir, teacher_dir

PROMPTS = [[5, 11, 6, 15], [7, 12, 4, 15], [9, 11, 9, 15]]


def answers(backend: VLLMBackend) -> list[list[int]]:
    return [each.token_ids for each in backend.complete(PROMPTS, 0, max_new_tokens=8, temperature=0.0)]


def followed(backend: VLLMBackend, directory: Path) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(directory)
    backend.follow(model, {name: tensor.detach() for name, tensor in model.named_parameters()})
    assert backend.model is model
    return answers(backend)


@pytest.fixture(scope="module")
def expected() -> dict[Path, list[list[int]]]:
    """What each of two models says, from an engine of its own."""
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        tokenizer = AutoTokenizer.from_pretrained(base_dir())
        found = {each: answers(VLLMBackend(str(each), tokenizer)) for each in (base_dir(), teacher_dir())}
    assert found[base_dir()] != found[teacher_dir()]
    return found


def test_weights_are_put_into_the_engine(
    expected: dict[Path, list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = install(monkeypatch)
    backend = VLLMBackend(str(base_dir()), AutoTokenizer.from_pretrained(base_dir()), dtype="float32", follows=True)
    for directory in (base_dir(), teacher_dir(), base_dir()):  # the same prompts: what was computed before is forgotten
        assert followed(backend, directory) == expected[directory]
    assert backend.in_place
    assert engine.made == [{"model": str(base_dir()), "dtype": "float32"}]


@pytest.mark.parametrize(
    ("options", "arguments", "reason"),
    [
        ({"takes_weights": False}, {}, "RuntimeError: the engine runs elsewhere"),
        ({"forgets": "model.norm.weight"}, {}, r"load_weights\(\) leaves out model\.norm\.weight"),
        ({}, {"tensor_parallel_size": 2}, "quantised, or on several GPUs"),
        ({}, {"quantization": "fp8"}, "quantised, or on several GPUs"),
    ],
)
def test_otherwise_the_engine_is_made_anew_and_that_is_said_once(
    expected: dict[Path, list[list[int]]],
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, object],
    arguments: dict[str, object],
    reason: str,
) -> None:
    engine = install(monkeypatch, **options)  # type: ignore[arg-type]
    tokenizer = AutoTokenizer.from_pretrained(base_dir())
    backend = VLLMBackend(str(base_dir()), tokenizer, dtype="float32", follows=True, **arguments)
    with pytest.warns(UserWarning, match=f"does not take weights in place .*{reason}.* new engine reads it"):
        assert followed(backend, teacher_dir()) == expected[teacher_dir()]
    assert not backend.in_place
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert followed(backend, base_dir()) == expected[base_dir()]
    assert len(engine.made) == 3
    assert all(each["dtype"] == "float32" and arguments.items() <= each.items() for each in engine.made)
    assert not any(Path(each["model"]).exists() for each in engine.made[1:])  # the copies are removed


def test_an_engine_in_another_dtype_rounds_what_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    backend = VLLMBackend(str(base_dir()), AutoTokenizer.from_pretrained(base_dir()), dtype="bfloat16", follows=True)
    followed(backend, teacher_dir())
    assert all(tensor.dtype == torch.bfloat16 for _, tensor in backend._engine.named_parameters())
