"""What sampling with vLLM needs so that validation depends on its seed, and each prompt gets its own completion."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

from effopd.sampling import derived_seed


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
