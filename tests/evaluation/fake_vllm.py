"""A stand-in for vLLM, whose engine really samples, greedily: with a model of transformers that it loads itself."""

import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM


class FakeLLM:
    """vLLM's offline engine. Like vLLM's, it remembers what it computed for a prompt until its cache is reset."""

    made: list[dict[str, Any]]  # arguments of every engine
    takes_weights: bool
    forgets: str  # name of a parameter that is not loaded

    def __init__(self, model: str, dtype: str, **arguments: Any) -> None:
        type(self).made.append({"model": model, "dtype": dtype, **arguments})
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=dtype).eval()
        self._cache: dict[tuple[int, ...], list[int]] = {}

    def apply_model(self, function: Callable[[Any], Any]) -> list[Any]:
        if not self.takes_weights:
            raise RuntimeError("the engine runs elsewhere")
        return [function(self)]

    def named_parameters(self) -> Iterator[tuple[str, torch.Tensor]]:
        yield from self._model.named_parameters()

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        mine = dict(self.named_parameters())
        loaded = set()
        for name, tensor in weights:
            if name != self.forgets:
                mine[name].data.copy_(tensor)
                loaded.add(name)
        return loaded

    def reset_prefix_cache(self) -> None:
        self._cache.clear()

    def generate(self, requests: list[Any], parameters: list[Any], use_tqdm: bool) -> list[Any]:
        return [
            self._answer(request["prompt_token_ids"], each) for request, each in zip(requests, parameters, strict=True)
        ]

    def _answer(self, prompt: list[int], parameters: Any) -> Any:
        key = tuple(prompt)
        if key not in self._cache:
            ids = self._model.generate(
                torch.tensor([prompt]), do_sample=False, max_new_tokens=parameters.max_tokens, pad_token_id=0
            )
            self._cache[key] = ids[0, len(prompt) :].tolist()
        ids = self._cache[key]
        ends = self._model.generation_config.eos_token_id
        ended = bool(ids) and ids[-1] in (ends if isinstance(ends, list) else [ends])
        output = SimpleNamespace(token_ids=tuple(ids), finish_reason="stop" if ended else "length")
        return SimpleNamespace(outputs=[output])


def install(monkeypatch: pytest.MonkeyPatch, *, takes_weights: bool = True, forgets: str = "") -> type[FakeLLM]:
    """Put the stand-in in vLLM's place; the class of its engines tells which ones were made."""
    engine = type("LLM", (FakeLLM,), {"made": [], "takes_weights": takes_weights, "forgets": forgets})
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = engine, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # so that the test leaves the variable as it was
    return engine
