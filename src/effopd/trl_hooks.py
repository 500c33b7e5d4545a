"""Everything the package uses of TRL that TRL does not promise to keep: the only file to mend when TRL moves.

`tests/test_trl_hooks.py` fails when one of these names goes or changes its signature.

    Trainer._tokenize_prompts, ._generate_single_turn   sample from the live weights, by HF generate or vLLM
    Trainer.vllm_generation.llm.generate                is given the sampling parameters of each prompt
    Trainer._last_loaded_step                           which step's weights vLLM holds; -1 makes it load them again
    Trainer._buffered_inputs                            rollouts kept for later steps; None makes it sample again
    Trainer._metrics                                    what goes into the next log
    Trainer._load_optimizer_and_scheduler               is given the checkpoint that training resumes from
    Trainer._get_train_sampler, RepeatSampler           draws an order of the prompts at each pass over them
    Trainer._init_training_state                        is called when training starts, and tells how many passes a
                                                        resumed training has behind it
    Trainer._step                                       micro-batches trained on, which says how old the rollouts are
    Trainer.num_generations, .num_generations_eval      how often RLOO repeats a prompt, and expects a server's repeated
    Trainer.async_loop                                  runs GRPO's asynchronous rewards; only there if it has some
    DistillationTrainer._get_last_hidden_state          runs student and teacher up to their heads
    distillation_trainer._chunked_divergence_loss       the loss on hidden states and heads of student and teacher
"""

import asyncio
import atexit
import random
import weakref
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from inspect import ismethod, signature
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import reduce
from torch.distributed.fsdp import FSDPModule
from trl import DistillationTrainer, GRPOTrainer, RLOOTrainer
from trl.chat_template_utils import parse_response
from trl.data_utils import is_conversational
from trl.trainer import distillation_trainer
from trl.trainer.utils import RepeatSampler, pad, shutdown_event_loop_in_daemon, start_event_loop_in_daemon

from effopd.errors import DivergedError

# The trainers that extrapolation is tested with.
TESTED_TRAINERS = (DistillationTrainer, GRPOTrainer, RLOOTrainer)
DIVERGED = (
    "The student's logits are not finite, so that nothing can be sampled from it: training has diverged. Lower the "
    "learning rate, and start again or from an earlier checkpoint."
)

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

    Raises:
        DivergedError: On some process, the weights' logits after a prompt are not finite. Nothing is sampled then:
            sampling would end the process, on a GPU beyond repair.
    """
    args = trainer.args
    batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
    rollouts: list[Rollout] = []
    with seeded(trainer, seed), _seeded_vllm(trainer, seed), _one_completion_per_prompt(trainer):
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            prompts = [example["prompt"] for example in batch]
            prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
            _check_logits(trainer, prompt_ids)
            completion_ids = _sample(trainer, prompt_ids, images, fields)
            rollouts += make_rollouts(trainer, batch, prompt_ids, completion_ids)
    return rollouts


def _sample(trainer: Any, prompt_ids: list[list[int]], images: Any, fields: Any) -> list[list[int]]:
    """One completion of each prompt."""
    try:
        if "num_generations" in signature(trainer._generate_single_turn).parameters:
            completion_ids: list[list[int]] = trainer._generate_single_turn(
                prompt_ids, images, fields, num_generations=1
            )[0]
        else:
            result = trainer._generate_single_turn(prompt_ids, images, fields)
            completion_ids = result[0] if isinstance(result, tuple) else result
    except RuntimeError as error:
        if "probability tensor contains" not in str(error) or trainer.accelerator.num_processes > 1:
            raise
        raise DivergedError(DIVERGED) from error
    return completion_ids


@contextmanager
def _one_completion_per_prompt(trainer: Any) -> Iterator[None]:
    """Within the context, let RLOO ask a vLLM server for one completion of every prompt.

    It has no argument for it, and takes its prompts as repeated: of N it would send every `num_generations`-th.
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


def _check_logits(trainer: Any, prompt_ids: Sequence[list[int]]) -> None:
    """Raise if the logits from which the first tokens would be sampled are not finite. Collective."""
    model = trainer.model_wrapped
    inputs = _pad_ids(trainer, "prompt", prompt_ids)
    forward = trainer.accelerator.unwrap_model(model).forward
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in signature(forward).parameters else {}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), trainer.compute_loss_context_manager():
            logits = model(
                input_ids=inputs["prompt_ids"], attention_mask=inputs["prompt_mask"], use_cache=False, **only_last
            ).logits[:, -1]
    finally:
        model.train(was_training)
    broken = torch.tensor(float(not torch.isfinite(logits).all()), device=logits.device)
    if reduce(broken, "sum").item():
        raise DivergedError(DIVERGED)


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


def samples_on_a_server(trainer: Any) -> bool:
    """Whether completions come from a vLLM server, which takes no seed for each prompt."""
    return getattr(getattr(trainer, "vllm_generation", None), "mode", None) == "server"


def empty_rollout(example: dict[str, Any]) -> Rollout:
    """A completion of nothing, as a model that ends at once gives it."""
    conversational = is_conversational({"prompt": example["prompt"]})
    return Rollout(example, [], [], [{"role": "assistant", "content": ""}] if conversational else "")


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


def discard_rollouts(trainer: Any) -> tuple[int, int]:
    """Drop rollouts that were sampled from earlier weights and wait to be trained on. Collective.

    GRPO and RLOO sample for several steps at a time (`steps_per_generation`, `num_iterations`). After a jump in the
    middle of them they sample all of that anew, which plain training would not have done.

    Returns:
        What sampling anew will cost, over all processes: its completions, and as an estimate of their tokens those of
        the completions that it replaces. Zeros where the trainer was about to sample anyway, or training ends here.
    """
    buffered, trainer._buffered_inputs = getattr(trainer, "_buffered_inputs", None), None
    args, state = trainer.args, trainer.state
    steps = getattr(args, "steps_per_generation", None)  # DistillationTrainer samples for every step
    if not buffered or steps is None or state.global_step >= state.max_steps:
        return 0, 0
    if trainer._step % (steps * trainer.num_iterations) == 0:
        return 0, 0
    masks = [batch["completion_mask"] for batch in buffered]
    counts = torch.tensor([sum(map(len, masks)), sum(int(mask.sum()) for mask in masks)])
    completions, tokens = reduce(counts.to(trainer.accelerator.device), "sum").tolist()
    return completions, tokens


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

    The prompts then come in the order in which they would have come without the interruption. An object whose bound
    method `action` is, is not kept alive by this.
    """
    _keep_order_of_prompts(trainer)
    original, find = trainer._load_optimizer_and_scheduler, _weak(action)

    def load(checkpoint: str | None) -> None:
        original(checkpoint)
        if checkpoint is not None and (found := find()) is not None:
            found(checkpoint)

    trainer._load_optimizer_and_scheduler = load


def on_start(trainer: Any, action: Callable[[], None]) -> None:
    """Call `action` when training starts, before its first step.

    An object whose bound method `action` is, is not kept alive by this.
    """
    original, find = trainer._init_training_state, _weak(action)

    def initialize(*args: Any, **kwargs: Any) -> Any:
        if (found := find()) is not None:
            found()
        return original(*args, **kwargs)

    trainer._init_training_state = initialize


def _weak(action: Callable[..., None]) -> Callable[[], Callable[..., None] | None]:
    return weakref.WeakMethod(action) if ismethod(action) else lambda: action


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
    if vars(trainer).get("_effopd_keeps_order"):
        return
    trainer._effopd_keeps_order = True
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
    return _pad_ids(trainer, "prompt", [rollout.prompt_ids for rollout in rollouts]) | _pad_ids(
        trainer, "completion", [rollout.completion_ids for rollout in rollouts]
    )


def _pad_ids(trainer: Any, name: str, ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """`NAME_ids` and `NAME_mask`, int64 [B, L], on the trainer's device; prompts are padded on the left."""
    rows = [torch.tensor(row, dtype=torch.long) for row in ids]
    padding = {
        "padding_side": "left" if name == "prompt" else "right",
        "pad_to_multiple_of": trainer.pad_to_multiple_of,
    }
    device = trainer.accelerator.device
    return {
        f"{name}_ids": pad(rows, padding_value=trainer._tokenizer.pad_token_id, **padding).to(device),
        f"{name}_mask": pad([torch.ones_like(row) for row in rows], padding_value=0, **padding).to(device),
    }
