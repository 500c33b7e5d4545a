"""The loss of TRL's `DistillationTrainer`: reading it, replacing it, and taking it for each rollout apart.

Shape suffixes: B sequences, T completion tokens, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from trl.trainer import distillation_trainer
from trl.trainer.utils import maybe_gather_lm_head_ctx

from effopd.sampling import evaluation_mode
from effopd.trl_hooks.rollouts import Rollout, pad_rollouts

LossOfBatch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
DivergenceLoss = Callable[..., LossOfBatch]
"""A loss on hidden states and heads, as TRL calls it.

By position it is given the hidden states of student and teacher [B, T, H], their heads [V, H], the loss mask [B, T] and
beta; then by name `num_items_in_batch`, the biases, logit scales and soft caps of both heads, and the temperature. It
returns the loss, the student's entropy summed over the tokens, and the number of tokens.
"""

VOCABULARY_CHUNK = 8192
"""Number of vocabulary columns projected at a time where only the log-probabilities of given tokens are needed."""


def divergence_loss() -> DivergenceLoss:
    """Return TRL's own loss, or what stands in for it at present."""
    return distillation_trainer._chunked_divergence_loss  # type: ignore[no-any-return]


@contextmanager
def replaced_loss(loss: DivergenceLoss) -> Iterator[None]:
    """Let `DistillationTrainer` compute `loss` in place of its divergence within the context."""
    original = divergence_loss()
    distillation_trainer._chunked_divergence_loss = loss
    try:
        yield
    finally:
        distillation_trainer._chunked_divergence_loss = original


def token_logprobs(
    tokens_BT: torch.Tensor,
    student_BTH: torch.Tensor,
    teacher_BTH: torch.Tensor,
    student_head_VH: torch.Tensor,
    teacher_head_VH: torch.Tensor,
    *,
    temperature: float,
    **settings: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute log-probabilities of given tokens without holding the whole logits.

    Args:
        tokens_BT: Token ids, int64 [B, T].
        student_BTH: Hidden states of the student at the positions that predict the tokens, [B, T, H].
        teacher_BTH: Hidden states of the teacher, likewise.
        student_head_VH: Weight of the student's head, [V, H]; a sharded one is gathered.
        teacher_head_VH: Weight of the teacher's head, likewise.
        temperature: Number above 0 that the logits are divided by.
        **settings: Biases, logit scales and soft caps of both heads, by the names that a `DivergenceLoss` gets them by.

    Returns:
        Log-probabilities [B, T] in nats of the student, with gradients, and of the teacher, without; and the entropy
        [B, T] of the student's distribution at each position.
    """
    student_BT, entropy_BT = _project("student", tokens_BT, student_BTH, student_head_VH, temperature, settings)
    frozen = frozen_logprobs(tokens_BT, teacher_BTH, teacher_head_VH, temperature=temperature, **settings)
    return student_BT, frozen, entropy_BT


@torch.no_grad()
def frozen_logprobs(
    tokens_BT: torch.Tensor, states_BTH: torch.Tensor, head_VH: torch.Tensor, *, temperature: float, **settings: Any
) -> torch.Tensor:
    """Compute the log-probabilities [B, T], in nats, that the teacher gives to tokens, or a model in its place.

    The arguments are those of `token_logprobs`; of the settings, only those named `teacher_...` count.
    """
    return _project("teacher", tokens_BT, states_BTH, head_VH, temperature, settings)[0]


def _project(
    role: str,
    tokens_BT: torch.Tensor,
    hidden_BTH: torch.Tensor,
    head_VH: torch.Tensor,
    temperature: float,
    settings: dict[str, Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute log-probabilities of the tokens, and entropies, each [B, T], under the student or the teacher."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction  # here, because in TRL 1.15 it needs Triton

    values, entropy, *_ = ChunkedLogProbFunction.apply(
        hidden_BTH.flatten(0, 1),
        *_whole_head(head_VH, settings[f"{role}_lm_head_bias"], hidden_BTH.dtype),
        tokens_BT.flatten(),
        temperature,
        VOCABULARY_CHUNK,
        settings[f"{role}_final_logit_softcapping"],
        settings[f"{role}_logit_scale"],
        ("entropy",),
    )
    return values.view(tokens_BT.shape), entropy.view(tokens_BT.shape)


def divergence_per_row(
    student_BTH: torch.Tensor,
    teacher_BTH: torch.Tensor,
    student_head_VH: torch.Tensor,
    teacher_head_VH: torch.Tensor,
    mask_BT: torch.Tensor,
    *,
    temperature: float,
    **settings: Any,
) -> torch.Tensor:
    """Compute the reverse KL from student to teacher, in nats, summed over the tokens of each row, float64 [B].

    The arguments are those of a `DivergenceLoss`. It is exact over the vocabulary.
    """
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction  # here, because in TRL 1.15 it needs Triton

    is_counted_BT = mask_BT.bool()
    tensors = []
    for role, hidden_BTH, head_VH in (
        ("student", student_BTH, student_head_VH),
        ("teacher", teacher_BTH, teacher_head_VH),
    ):
        head = _whole_head(head_VH, settings[f"{role}_lm_head_bias"], hidden_BTH.dtype)
        tensors += [hidden_BTH[is_counted_BT], *head]
    scaling = [
        settings[f"{role}_{name}"]
        for role in ("student", "teacher")
        for name in ("logit_scale", "final_logit_softcapping")
    ]
    per_token, _ = ChunkedDivergenceFunction.apply(*tensors, 1.0, temperature, *scaling)
    sums = torch.zeros(len(mask_BT), dtype=torch.float64, device=per_token.device)
    return sums.index_add_(0, is_counted_BT.nonzero()[:, 0], per_token.double())


def _whole_head(
    head_VH: torch.Tensor, bias_V: torch.Tensor | None, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Gather a head that is sharded, as the trainer does."""
    if isinstance(head_VH, DTensor):
        head_VH = head_VH.full_tensor().to(dtype)
    return head_VH, bias_V.full_tensor() if isinstance(bias_V, DTensor) else bias_V


@torch.no_grad()
def copied_head(head_VH: torch.Tensor, bias_V: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Copy the weight and the bias of a head, for losses to take later in place of a live one.

    A head that ZeRO-3 has sharded is gathered for that; the copy has its mark that it is whole.
    """

    def copied(live: Any) -> Any:
        copy = live.detach().clone()
        if hasattr(live, "ds_status"):
            copy.ds_status = live.ds_status
        return copy

    with maybe_gather_lm_head_ctx(head_VH, bias_V):
        return copied(head_VH), None if bias_V is None else copied(bias_V)


def divergence_per_rollout(
    trainer: Any, rollouts: Sequence[Rollout], teacher_states: dict[int, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Compute the reverse KL from student to teacher, in nats, summed over the tokens of each rollout's completion.

    It is exact over the vocabulary, without gradients, and computed in micro-batches of `per_device_train_batch_size`.
    This is collective: every process must bring the same number of rollouts.

    Args:
        trainer: A `DistillationTrainer`.
        rollouts: Rollouts to compute it on.
        teacher_states: Last hidden states of the teacher by micro-batch, [B, T, H], from an earlier call with the same
            rollouts. Those that are missing are put there. With None, the teacher reads every rollout and nothing is
            kept.
    """
    size = trainer.args.per_device_train_batch_size
    divergences: list[torch.Tensor] = []

    def loss(*args: Any, num_items_in_batch: Any = None, **settings: Any) -> LossOfBatch:
        *_, student_head_VH, teacher_head_VH, mask_BT, _ = args
        biases = settings["student_lm_head_bias"], settings["teacher_lm_head_bias"]
        with maybe_gather_lm_head_ctx(student_head_VH, teacher_head_VH, *biases):
            divergences.extend(divergence_per_row(*args[:-1], **settings))  # all but beta
        return no_loss(mask_BT)

    with unlogged(trainer), trainer.compute_loss_context_manager(), replaced_loss(loss):
        for start in range(0, len(rollouts), size):
            with _teacher_reads_once(trainer, teacher_states, start):
                trainer.compute_loss(trainer.model_wrapped, pad_rollouts(trainer, rollouts[start : start + size]))
    return divergences


def no_loss(mask_BT: torch.Tensor) -> LossOfBatch:
    """Return what a `DivergenceLoss` does that is called for something else than the loss."""
    zero = mask_BT.new_zeros((), dtype=torch.float32)
    return zero, zero, mask_BT.sum()


@contextmanager
def metrics_kept(trainer: Any, mode: str) -> Iterator[None]:
    """Take back what the trainer notes for its next log within the context; `mode` is "train" or "eval"."""
    noted = trainer._metrics[mode]
    before = {key: list(values) for key, values in noted.items()}
    try:
        yield
    finally:
        noted.clear()
        noted.update(before)


@contextmanager
def unlogged(trainer: Any) -> Iterator[None]:
    """Within the context, the model is in evaluation mode without gradients, and nothing is noted for the next log."""
    with evaluation_mode(trainer.model_wrapped), metrics_kept(trainer, "eval"):  # compute_loss notes its entropy there
        yield


@contextmanager
def _teacher_reads_once(trainer: Any, kept: dict[int, torch.Tensor] | None, index: int) -> Iterator[None]:
    """Take the teacher's hidden states of a micro-batch from `kept`, or put them there, within the context."""
    if kept is None:
        yield
        return
    hidden_states = trainer._get_last_hidden_state
    teacher = trainer.accelerator.unwrap_model(trainer.teacher_model)

    def hidden_states_or_kept(model: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if model is not teacher:
            return hidden_states(model, *args, **kwargs)  # type: ignore[no-any-return]
        if index not in kept:
            kept[index] = hidden_states(model, *args, **kwargs)
        return kept[index]

    trainer._get_last_hidden_state = hidden_states_or_kept
    try:
        yield
    finally:
        trainer._get_last_hidden_state = hidden_states
