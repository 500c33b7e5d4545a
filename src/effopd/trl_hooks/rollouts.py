"""Sampling completions from a trainer's live weights, and decoding and padding them as TRL does."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from accelerate.utils import is_peft_model, reduce
from trl.chat_template_utils import parse_response
from trl.data_utils import is_conversational
from trl.trainer.utils import pad

from effopd.errors import DivergedError
from effopd.sampling import evaluation_mode
from effopd.trl_hooks.trainer import seeded_per_process, tokenizer
from effopd.trl_hooks.vllm import one_completion_per_prompt, seed_for_each_prompt

DIVERGED = (
    "The student's logits are not finite, so that nothing can be sampled from it: training has diverged. Lower the "
    "learning rate, and start again or from an earlier checkpoint."
)


class Rollout(NamedTuple):
    """One completion that was sampled for one example of a dataset.

    Attributes:
        example: Row of the dataset; its `prompt` is text or a list of messages.
        prompt_ids: Token ids of the prompt, unpadded.
        completion_ids: Token ids of the completion, unpadded, with the end-of-sequence token if it was reached.
        completion: Decoded completion, as TRL hands it to reward functions: text, or a list of one assistant message.
            The message is parsed if the tokenizer says how.
    """

    example: dict[str, Any]
    prompt_ids: list[int]
    completion_ids: list[int]
    completion: Any


def generate(trainer: Any, examples: Sequence[dict[str, Any]], seed: int) -> list[Rollout]:
    """Sample one completion for each example from the trainer's live weights, with its own generation settings.

    This is collective: every process must ask for the same number of examples. The random numbers depend on `seed`
    alone, except with a vLLM server, and the trainer's own random state is left as it was. The model samples without
    dropout, as an inference engine does. Prompts go in batches as large as those that the trainer itself generates, so
    that sampling needs no more memory than training; or in batches of `per_device_eval_batch_size` if that is larger.

    Args:
        trainer: A trainer that `samples_as_tested`.
        examples: Rows of a dataset, each with a `prompt`.
        seed: Random seed for sampling.

    Raises:
        DivergedError: On some process, the logits after a prompt are not finite. This is checked before anything is
            sampled, because sampling from such logits would end the process, and on a GPU leave it unusable. The error
            has what all processes had sampled until then.
    """
    args = trainer.args
    of_a_step = args.per_device_train_batch_size * args.gradient_accumulation_steps
    batch_size = max(of_a_step, args.per_device_eval_batch_size)
    rollouts: list[Rollout] = []
    with (
        seeded_per_process(trainer, seed),
        seed_for_each_prompt(trainer, seed),
        one_completion_per_prompt(trainer),
        evaluation_mode(trainer.model_wrapped),
    ):
        for start in range(0, len(examples), batch_size):
            batch = examples[start : start + batch_size]
            prompts = [example["prompt"] for example in batch]
            prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
            try:
                _check_logits(trainer, prompt_ids)
                completion_ids = _sample(trainer, prompt_ids, images, fields)
            except DivergedError as error:
                tokens = sum(len(rollout.completion_ids) for rollout in rollouts)
                sampled = reduce(torch.tensor([len(rollouts), tokens], device=trainer.accelerator.device), "sum")
                error.rollouts, error.tokens = sampled.tolist()
                raise
            rollouts += make_rollouts(trainer, batch, prompt_ids, completion_ids)
    return rollouts


def make_rollouts(
    trainer: Any,
    examples: Sequence[dict[str, Any]],
    prompt_ids: Sequence[list[int]],
    completion_ids: Sequence[list[int]],
) -> list[Rollout]:
    """Put examples together with the completions sampled for them, decoded as TRL decodes them for reward functions."""
    texts = trainer.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
    completions: list[Any] = texts
    if examples and is_conversational({"prompt": examples[0]["prompt"]}):
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        # Tokenizers of transformers before 5.13 may have a `response_schema` in place of the template.
        if any(getattr(tokenizer(trainer), f"response_{kind}", None) is not None for kind in ("template", "schema")):
            pairs = zip(completion_ids, prompt_ids, strict=True)
            completions = [[parse_response(tokenizer(trainer), ids, prefix=prompt)] for ids, prompt in pairs]
    rows = zip(examples, prompt_ids, completion_ids, completions, strict=True)
    return [Rollout(*row) for row in rows]


def empty_rollout(example: dict[str, Any]) -> Rollout:
    """Make the rollout of a model that writes nothing."""
    conversational = is_conversational({"prompt": example["prompt"]})
    return Rollout(example, [], [], [{"role": "assistant", "content": ""}] if conversational else "")


def is_divergence(error: BaseException) -> bool:
    """Whether an error is the one that torch raises on the CPU when it samples from logits that are not finite."""
    return "probability tensor contains" in str(error)


def pad_rollouts(trainer: Any, rollouts: Sequence[Rollout]) -> dict[str, torch.Tensor]:
    """Batch rollouts as TRL does: prompts padded on the left to P tokens, completions on the right to C tokens.

    Returns:
        `prompt_ids` and `prompt_mask`, int64 [B, P], `completion_ids` and `completion_mask`, int64 [B, C].
    """
    return _pad_ids(trainer, "prompt", [rollout.prompt_ids for rollout in rollouts]) | _pad_ids(
        trainer, "completion", [rollout.completion_ids for rollout in rollouts]
    )


def _sample(trainer: Any, prompt_ids: list[list[int]], images: Any, fields: Any) -> list[list[int]]:
    """Sample one completion for each prompt."""
    try:
        if "num_generations" in signature(trainer._generate_single_turn).parameters:
            completion_ids: list[list[int]] = trainer._generate_single_turn(
                prompt_ids, images, fields, num_generations=1
            )[0]
        else:
            result = trainer._generate_single_turn(prompt_ids, images, fields)
            completion_ids = result[0] if isinstance(result, tuple) else result
    except RuntimeError as error:
        # With several processes the error may be this one's alone, and carrying on would leave the others waiting.
        if not is_divergence(error) or trainer.accelerator.num_processes > 1:
            raise
        if trainer.args.gradient_checkpointing:  # which TRL switches off to sample, and leaves off after an error
            model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
            model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        raise DivergedError(DIVERGED) from error
    return completion_ids


def _check_logits(trainer: Any, prompt_ids: Sequence[list[int]]) -> None:
    """Raise if the logits from which the first tokens would be sampled are not finite. This is collective."""
    model = trainer.model_wrapped
    inputs = _pad_ids(trainer, "prompt", prompt_ids)
    whole = trainer.accelerator.unwrap_model(model)
    forward = (whole.get_base_model() if is_peft_model(whole) else whole).forward  # PEFT's own names no arguments
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in signature(forward).parameters else {}
    with trainer.compute_loss_context_manager():
        logits = model(
            input_ids=inputs["prompt_ids"], attention_mask=inputs["prompt_mask"], use_cache=False, **only_last
        ).logits[:, -1]
    broken = torch.tensor(float(not torch.isfinite(logits).all()), device=logits.device)
    if reduce(broken, "sum").item():
        raise DivergedError(DIVERGED)


def _pad_ids(trainer: Any, name: str, ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Make `NAME_ids` and `NAME_mask`, int64 [B, L], on the trainer's device; prompts are padded on the left."""
    rows = [torch.tensor(row, dtype=torch.long) for row in ids]
    padding = {
        "padding_side": "left" if name == "prompt" else "right",
        "pad_to_multiple_of": trainer.pad_to_multiple_of,
    }
    device = trainer.accelerator.device
    return {
        f"{name}_ids": pad(rows, padding_value=tokenizer(trainer).pad_token_id, **padding).to(device),
        f"{name}_mask": pad([torch.ones_like(row) for row in rows], padding_value=0, **padding).to(device),
    }
