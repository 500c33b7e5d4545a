"""What sampling with vLLM needs: a seed and a completion for each prompt of validation, log-probabilities for training.

Shape suffixes: B sequences, T completion tokens.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.sampling import derived_seed

ENGINE_LOGPROBS = "engine_logprobs"
"""Key of a micro-batch: log-probabilities of its tokens in the engine that sampled it, float32 [B, T], or NaN."""


def samples_on_a_server(trainer: Any) -> bool:
    """Whether completions come from a vLLM server, which takes no seed for each prompt."""
    return getattr(getattr(trainer, "vllm_generation", None), "mode", None) == "server"


@contextmanager
def seed_for_each_prompt(trainer: Any, seed: int) -> Iterator[None]:
    """Give every prompt of a colocated vLLM a seed of its own within the context.

    vLLM starts a generator for each request. With one seed for all requests, as TRL would pass it on, every prompt
    would get the same random numbers. Processes that share an engine give it the same prompts, and so need the same
    seeds. A server is given none, since TRL can send it only one for all prompts.
    """
    vllm = getattr(trainer, "vllm_generation", None)
    if vllm is None or vllm.mode != "colocate":
        yield
        return
    engine = trainer.accelerator.process_index // vllm.tensor_parallel_size
    original, counter = vllm.llm.generate, count()

    def generate(prompts: Sequence[Any], sampling_params: Any, **kwargs: Any) -> Any:
        own = [sampling_params.clone() for _ in prompts]
        for each in own:
            each.seed = derived_seed(seed, engine, next(counter))
        return original(prompts, sampling_params=own, **kwargs)

    vllm.llm.generate = generate
    try:
        yield
    finally:
        vllm.llm.generate = original


@contextmanager
def one_completion_per_prompt(trainer: Any) -> Iterator[None]:
    """Let RLOO ask a vLLM server for one completion of every prompt within the context.

    RLOO's sampling has no argument for that, and takes its prompts to be repeated: of N prompts, it would send only
    every `num_generations`-th.
    """
    names = ("num_generations", "num_generations_eval")
    found = {name: getattr(trainer, name) for name in names if name in vars(trainer)}
    for name in found:
        setattr(trainer, name, 1)
    try:
        yield
    finally:
        for name, value in found.items():
            setattr(trainer, name, value)


def check_engine_logprobs(trainer: Any) -> None:
    """Refuse a vLLM server that reports other log-probabilities than those of the distribution it samples from.

    Raises:
        ConfigurationError: The server reports them from before the temperature is applied, and that is not 1.
    """
    if not samples_on_a_server(trainer) or trainer.temperature == 1 or not trainer.accelerator.is_main_process:
        return
    mode = trainer.vllm_generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
    if mode != "processed_logprobs":
        raise ConfigurationError(
            f"The vLLM server runs with --logprobs-mode {mode}, which leaves out the temperature of "
            f"{trainer.temperature}, so the importance sampling correction would be wrong. Start it with "
            "--logprobs-mode processed_logprobs, or set vllm_importance_sampling_correction to false."
        )


@contextmanager
def engine_logprobs(trainer: Any, wanted: bool) -> Iterator[list[list[list[float | None]]]]:
    """Let vLLM report the log-probabilities of what it samples within the context, if that is `wanted`.

    TRL's `DistillationTrainer` asks for none, and drops what it gets.

    Yields:
        List that they are put into: for each completion a list with an entry for each token, which is a list of one
        log-probability in nats, or of None where vLLM has none. It stays empty if the trainer samples itself.
    """
    reported: list[list[list[float | None]]] = []
    vllm = getattr(trainer, "vllm_generation", None)
    if vllm is None or not wanted:
        yield reported
        return
    generate, number = vllm.generate, vllm.logprobs

    def generate_and_report(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        reported.extend(result[2])
        return result

    vllm.generate, vllm.logprobs = generate_and_report, 0  # 0 more than that of the sampled token
    try:
        yield reported
    finally:
        vllm.generate, vllm.logprobs = generate, number


def pad_engine_logprobs(reported: Sequence[Sequence[Sequence[float | None]]], mask_BT: torch.Tensor) -> torch.Tensor:
    """Put what `engine_logprobs` reported where the mask of the completions is 1: float32 [B, T], elsewhere 0.

    Raises:
        UnsupportedError: It is not one number for each token of each completion.
    """
    lengths = mask_BT.sum(1).tolist()
    if [len(row) for row in reported] != lengths or any(len(token) != 1 for row in reported for token in row):
        raise UnsupportedError(
            "vLLM did not report one log-probability for each sampled token, which the importance sampling correction "
            "needs; tools and 'logprobs' in generation_kwargs do that. Leave them out, or set "
            "vllm_importance_sampling_correction to false."
        )
    values = [math.nan if token[0] is None else token[0] for row in reported for token in row]
    padded_BT = torch.zeros(mask_BT.shape, device=mask_BT.device)
    padded_BT[mask_BT.bool()] = torch.tensor(values, device=mask_BT.device)
    return padded_BT
