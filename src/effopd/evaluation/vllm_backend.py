"""The backend that generates completions with vLLM's offline engine, whose weights can follow a model in memory."""

import gc
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import override

from effopd.errors import UnsupportedError, listing
from effopd.evaluation.backends import Backend, Sampled
from effopd.sampling import derived_seed


class VLLMBackend(Backend):
    """Generates with vLLM's offline engine.

    Every completion is a request with a seed of its own, so that the samples of one prompt differ. vLLM's prefix cache
    reads a prompt that several of them share only once.

    Args:
        name: Directory or hub name of the model.
        tokenizer: Tokenizer of the model.
        dtype: Type of the weights, as vLLM names it: `auto`, `bfloat16`, ...
        follows: Whether `follow` will be called. The engine then runs in this process, where it can take weights.
        **engine: Further arguments of `vllm.LLM`.

    Attributes:
        dtype: That type.

    Raises:
        UnsupportedError: vLLM is not installed.
    """

    def __init__(
        self,
        name: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str = "auto",
        follows: bool = False,
        **engine: Any,
    ) -> None:
        if follows:  # vLLM reads it when an engine is made
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        try:
            import vllm
        except ImportError as error:
            raise UnsupportedError(
                f"--backend vllm needs vLLM, which cannot be imported ({error}): pip install 'effopd[vllm]', or use"
                " --backend hf."
            ) from error
        self.model: PreTrainedModel | None = None
        self.tokenizer = tokenizer
        self._vllm = vllm
        self.dtype = dtype
        self._arguments = {"dtype": dtype, **engine}
        self._obstacle: str | None = None
        if "quantization" in engine or engine.get("tensor_parallel_size", 1) > 1:
            self._obstacle = "it is quantised, or on several GPUs"
        self._warned = False
        self._engine = vllm.LLM(model=name, **self._arguments)

    @property
    def in_place(self) -> bool:
        """Whether the engine has taken all weights in place so far."""
        return self._obstacle is None

    def follow(self, model: PreTrainedModel, stored: Mapping[str, torch.Tensor]) -> None:
        """Give the engine the weights of a model in memory, which it casts to its own dtype.

        They are put into the engine in place. If the engine does not take them, this warns once, and from then on
        writes every model to a temporary directory, from which a new engine is made.

        Args:
            model: The model, of the architecture that the engine has.
            stored: Its parameters, by the names that they have in files.
        """
        self.model = model
        if self._obstacle is None:
            try:
                self._put(stored)
                return
            except Exception as error:  # vLLM names no class for what its engines cannot do
                self._obstacle = f"{type(error).__name__}: {error}"
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"vLLM's engine does not take weights in place ({self._obstacle}). Every model is written to a"
                " temporary directory, and a new engine reads it, which takes as long as starting vLLM.",
                stacklevel=2,
            )
        self._reload(model)

    @override
    def complete(
        self, prompts: Sequence[Sequence[int]], seed: int, *, max_new_tokens: int, temperature: float
    ) -> list[Sampled]:
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        shared = {"n": 1, "temperature": temperature, "top_p": 1.0, "max_tokens": max_new_tokens}
        parameters = [
            self._vllm.SamplingParams(seed=derived_seed(seed, index), **shared) for index in range(len(prompts))
        ]
        outputs = self._engine.generate(requests, parameters, use_tqdm=False)
        first = [output.outputs[0] for output in outputs]
        return [Sampled(list(each.token_ids), each.finish_reason == "length") for each in first]

    def _put(self, stored: Mapping[str, torch.Tensor]) -> None:
        def load(inner: Any) -> set[str]:
            taken = inner.load_weights(list(stored.items()))
            return {name for name, _ in inner.named_parameters()} - set(taken)

        for missing in self._engine.apply_model(load):
            if missing:
                raise UnsupportedError(f"load_weights() leaves out {listing(sorted(missing), 3)}")
        self._engine.reset_prefix_cache()  # it was computed with the weights before

    def _reload(self, model: PreTrainedModel) -> None:
        self._engine = None  # so that two engines are never in memory at a time
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with tempfile.TemporaryDirectory(prefix="effopd-") as directory:
            model.save_pretrained(directory)
            self.tokenizer.save_pretrained(directory)
            self._engine = self._vllm.LLM(model=directory, **self._arguments)
