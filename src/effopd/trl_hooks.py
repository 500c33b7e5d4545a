"""Everything the package uses of TRL that TRL does not promise to keep: the only file to mend when TRL moves.

`tests/test_trl_hooks.py` fails when one of these names goes or changes its signature.

    Trainer._tokenize_prompts, ._generate_single_turn   sample from the live weights, by HF generate or vLLM
    Trainer.vllm_generation.llm.generate                is given the sampling parameters of each prompt
    Trainer._last_loaded_step                           which step's weights vLLM holds; -1 makes it load them again
    Trainer._buffered_inputs                            rollouts kept for later steps; None makes it sample again
    Trainer._metrics                                    what goes into the next log
    Trainer._load_optimizer_and_scheduler               is given the checkpoint that training resumes from
    Trainer._get_train_sampler, RepeatSampler           draws an order of the prompts at each pass over them
    Trainer._init_training_state                        tells how many passes a resumed training has behind it
    Trainer.async_loop                                  runs GRPO's asynchronous rewards; only there if it has some
    DistillationTrainer._get_last_hidden_state          runs student and teacher up to their heads
    distillation_trainer._chunked_divergence_loss       the loss on hidden states and heads of student and teacher
"""

import asyncio
import atexit
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import signature
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.distributed.fsdp import FSDPModule
from trl.chat_template_utils import parse_response
from trl.data_utils import is_conversational
from trl.trainer import distillation_trainer
from trl.trainer.utils import RepeatSampler, pad, shutdown_event_loop_in_daemon, start_event_loop_in_daemon

# Student and teacher hidden states [B, T, H], their heads [V, H], the loss mask [B, T] and beta come first;
# then, by name, num_items_in_batch, biases, logit scales, soft caps and the temperature.
DivergenceLoss = Callable[..., tuple[torch.Tensor, torch.Tensor, torch.Tensor]]


class Rollout(NamedTuple):
    """One completion sampled for one example of a dataset.

    Attributes:
        example: The dataset's row; `prompt` is text or a list of messages.
        prompt_ids: Token ids of the prompt, unpadded.
        completion_ids: Token ids of the completion, unpadded, with the end-of-sequence token if it was reached.
        completion: The decoded completion, as TRL hands it to reward functions: text, or one assistant message, parsed
            if the tokenizer has a `response_template`.
    """

    example: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any


def generate(trainer: Any, examples: Sequence[dict[str, Any]], seed: int) -> list[Rollout]:
    """Sample one completion for each example from the trainer's live weights, with its own generation settings.

    Collective: every process must ask for the same number of examples. The random numbers depend on `seed` alone, save
    with a vLLM server, and the trainer's own random state is left as it was. Prompts go in batches of what the trainer
    itself generates at a time, so memory stays what training needs.
    """
    args = trainer.args
    batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    takes_num_generations = "num_generations" in signature(trainer._generate_single_turn).parameters
    rollouts: list[Rollout] = []
    with seeded(trainer, seed), _seeded_vllm(trainer, seed):
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            prompts = [example["prompt"] for example in batch]
            prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
            if takes_num_generations:
                completion_ids, _ = trainer._generate_single_turn(prompt_ids, images, fields, num_generations=1)
            else:
                completion_ids = trainer._generate_single_turn(prompt_ids, images, fields)
            rollouts += make_rollouts(trainer, batch, prompt_ids, completion_ids)
    return rollouts


def make_rollouts(
    trainer: Any,
    examples: Sequence[dict[str, Any]],
    prompt_ids: Sequence[list[int]],
    completion_ids: Sequence[list[int]],
) -> list[Rollout]:
    """Examples with what was sampled for them, decoded as TRL decodes it for reward functions."""
    texts = trainer.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
    completions: list[Any] = texts
    if examples and is_conversational({"prompt": examples[0]["prompt"]}):
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        tokenizer = trainer._tokenizer
        if getattr(tokenizer, "response_template", None) is not None:
            pairs = zip(completion_ids, prompt_ids, strict=True)
            completions = [[parse_response(tokenizer, ids, prefix=prompt)] for ids, prompt in pairs]
    rows = zip(examples, prompt_ids, completion_ids, completions, strict=True)
    return [Rollout(*row) for row in rows]


def divergence_per_rollout(
    trainer: Any, rollouts: Sequence[Rollout], teacher_states: dict[int, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Reverse KL from student to teacher, in nats, summed over the tokens of each rollout's completion.

    Exact over the vocabulary, without gradients, in micro-batches of `per_device_train_batch_size`. Collective: every
    process must bring the same number of rollouts.

    Args:
        trainer: A `DistillationTrainer`.
        rollouts: What to compute it on.
        teacher_states: Last hidden states of the teacher, [B, T, H] by micro-batch, of an earlier call with the same
            rollouts. Where empty, they are put there. With None, the teacher reads the rollouts and nothing is kept.
    """
    size = trainer.args.per_device_train_batch_size
    model = trainer.model_wrapped
    was_training = model.training
    metrics = {key: list(values) for key, values in trainer._metrics["eval"].items()}
    original, hidden_states = divergence_loss(), trainer._get_last_hidden_state
    teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)
    divergences: list[torch.Tensor] = []

    def hidden_states_or_kept(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if teacher_states is None or model is not teacher:
            return hidden_states(model, *args, **kwargs)  # type: ignore[no-any-return]
        if start not in teacher_states:
            teacher_states[start] = hidden_states(model, *args, **kwargs)
        return teacher_states[start]

    def loss(
        student_BTH: torch.Tensor,
        teacher_BTH: torch.Tensor,
        student_head_VH: torch.Tensor,
        teacher_head_VH: torch.Tensor,
        mask_BT: torch.Tensor,
        beta: float,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        kwargs["num_items_in_batch"] = 1  # a sum over tokens, not a mean
        for row in range(len(mask_BT)):
            one = slice(row, row + 1)
            hidden = student_BTH[one], teacher_BTH[one]
            divergences.append(original(*hidden, student_head_VH, teacher_head_VH, mask_BT[one], 1.0, **kwargs)[0])
        zero = mask_BT.new_zeros((), dtype=torch.float32)
        return zero, zero, mask_BT.sum()

    model.eval()  # so that compute_loss books its by-products under "eval", which is put back below
    trainer._get_last_hidden_state = hidden_states_or_kept
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager(), replaced_loss(loss):
            for start in range(0, len(rollouts), size):
                trainer.compute_loss(model, _pad_rollouts(trainer, rollouts[start : start + size]))
    finally:
        trainer._get_last_hidden_state = hidden_states
        model.train(was_training)
        trainer._metrics["eval"].clear()
        trainer._metrics["eval"].update(metrics)
    return divergences


def divergence_loss() -> DivergenceLoss:
    """TRL's own loss on hidden states and heads, or what stands in for it at present."""
    return distillation_trainer._chunked_divergence_loss  # type: ignore[no-any-return]


@contextmanager
def replaced_loss(loss: DivergenceLoss) -> Iterator[None]:
    """Let `DistillationTrainer` compute `loss` in place of its divergence, within the context."""
    original = divergence_loss()
    distillation_trainer._chunked_divergence_loss = loss
    try:
        yield
    finally:
        distillation_trainer._chunked_divergence_loss = original


def publish_weights(trainer: Any) -> None:
    """Make every holder of a copy of the weights take them again, after they were changed in place.

    vLLM is only sent weights when the step number changes, and all candidates of one trigger share it; FSDP2 keeps
    the root's gathered parameters after a forward pass without a backward one.
    """
    if hasattr(trainer, "_last_loaded_step"):
        trainer._last_loaded_step = -1
    for module in trainer.model_wrapped.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def discard_rollouts(trainer: Any) -> None:
    """Drop rollouts that were sampled from earlier weights and wait to be trained on."""
    trainer._buffered_inputs = None


def log_metric(trainer: Any, name: str, value: float) -> None:
    """Add a value to the trainer's next log, where values of one name are averaged."""
    trainer._metrics["train"][name].append(value)


def wait_for(trainer: Any, values: Awaitable[Any]) -> Any:
    """What an asynchronous reward gives. All run on one loop: they may keep what is bound to it."""

    async def wait() -> Any:
        return await values

    loop = getattr(trainer, "async_loop", None) or _event_loop()
    return asyncio.run_coroutine_threadsafe(wait(), loop).result()


def on_resume(trainer: Any, action: Callable[[str], None]) -> None:
    """Call `action` with the checkpoint's directory when training resumes from one, before its first step.

    The prompts then come in the order in which they would have come without the interruption.
    """
    _keep_order_of_prompts(trainer)
    original = trainer._load_optimizer_and_scheduler

    def load(checkpoint: str | None) -> None:
        original(checkpoint)
        if checkpoint is not None:
            action(checkpoint)

    trainer._load_optimizer_and_scheduler = load


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """One in a thread of its own, since a notebook's thread runs one already."""
    loop: asyncio.AbstractEventLoop
    thread, loop, ready = start_event_loop_in_daemon(name="effopd-rewards")
    ready.wait()
    atexit.register(shutdown_event_loop_in_daemon, thread, loop)
    return loop


def _keep_order_of_prompts(trainer: Any) -> None:
    """TRL's sampler starts its random numbers anew in a new process: let it draw the orders of finished passes."""
    if "_init_training_state" in vars(trainer):
        return  # done already
    make_sampler, initialize = trainer._get_train_sampler, trainer._init_training_state
    made: list[Any] = []

    def get_train_sampler(*args: Any, **kwargs: Any) -> Any:
        made[:] = [make_sampler(*args, **kwargs)]
        return made[0]

    def init_training_state(*args: Any, **kwargs: Any) -> tuple[int, int]:
        num_epochs, num_steps = initialize(*args, **kwargs)
        for _ in range(num_epochs if made and isinstance(made[0], RepeatSampler) else 0):
            next(iter(made[0]))
        return num_epochs, num_steps

    trainer._get_train_sampler, trainer._init_training_state = get_train_sampler, init_training_state


@contextmanager
def seeded(trainer: Any, seed: int) -> Iterator[None]:
    """Fix the random numbers of torch, numpy and Python by `seed` within the context, apart for each process."""
    device = trainer.accelerator.device
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 (the state of whoever uses it)
    seed = (seed * 1_000_003 + trainer.accelerator.process_index) % 2**31
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for set_seed in (torch.manual_seed, random.seed, np.random.seed):
            set_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


@contextmanager
def _seeded_vllm(trainer: Any, seed: int) -> Iterator[None]:
    """Give every prompt of a colocated vLLM a seed of its own, within the context.

    vLLM starts a generator for each request: with one seed for all, as TRL would pass it on, every prompt gets the same
    random numbers. Processes that share an engine give it the same prompts, and so need the same seeds. A server is
    given none, since TRL can send it only one.
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
            words = np.random.SeedSequence((seed % 2**63, engine, next(counter))).generate_state(1)
            each.seed = int(words[0] >> 1)
        return original(prompts, sampling_params=own, **kwargs)

    vllm.llm.generate = generate
    try:
        yield
    finally:
        vllm.llm.generate = original


def _pad_rollouts(trainer: Any, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    """Prompts padded on the left, completions on the right: [B, P] and [B, C] ids and masks."""
    inputs = {}
    for name, side in (("prompt", "left"), ("completion", "right")):
        ids = [torch.tensor(getattr(rollout, f"{name}_ids"), dtype=torch.long) for rollout in rollouts]
        padding = {"padding_side": side, "pad_to_multiple_of": trainer.pad_to_multiple_of}
        inputs[f"{name}_ids"] = pad(ids, padding_value=trainer._tokenizer.pad_token_id, **padding)
        inputs[f"{name}_mask"] = pad([torch.ones_like(row) for row in ids], padding_value=0, **padding)
    return {key: value.to(trainer.accelerator.device) for key, value in inputs.items()}
