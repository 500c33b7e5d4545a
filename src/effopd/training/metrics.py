"""`metrics.jsonl`: one row per optimizer step, with every cost so far.

A row has these keys. Counts and seconds are cumulative over the run; counts are summed over processes, and seconds are
their mean:

    step, epoch, learning_rate
    optimizer_steps             those so far: `passes` of them for each step of a line search, else one
    loss, reverse_kl            those of this step's rollouts, before its update; reverse_kl is in nats per token,
                                and null without a teacher
    grad_norm                   norm of the gradient if the trainer logged this step, else null
    accuracy, accuracy_stderr   those of the weights that this step left, if they were evaluated, else null
    accepted_scale              scale that was accepted after this step, or 0.0; null if it was no trigger of EffOPD
    rollouts, validation_rollouts          completions sampled in all, and those among them that EffOPD validated by
    generated_tokens, validation_tokens    the tokens in them
    teacher_tokens, reference_tokens       completion tokens that the teacher, and ExOPD's reference model, scored
    seconds                     {generation, teacher, reference, update, validation, extrapolation}
    seconds_total               the sum of these; evaluating and saving are not in it
"""

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from effopd import trl_hooks
from effopd.extrapolation.callback import EffOPDCallback
from effopd.files import append_json_line, drop_later_steps, finite_or_none
from effopd.training.complete_checkpoints import mark_complete, read_complete
from effopd.training.failures import check_finite
from effopd.training.metered import MeteredTrainer, StepMeter

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_COUNTS = ("rollouts", "generated_tokens", "teacher_tokens", "reference_tokens")
_TIMED = ("generation", "teacher", "reference")
_PHASES = (*_TIMED, "update")
_EFFOPD_PHASES = ("validation", "extrapolation")


class MetricsCallback(TrainerCallback):
    """Writes `metrics.jsonl`, and marks checkpoints as complete. `effopd.training.build` says where it comes in order.

    Args:
        trainer: Trainer that this callback is added to, whose meter it reads.
        effopd: Extrapolation callback of the same trainer, whose costs the rows include; None if there is none.

    Attributes:
        row: The row of the last step, or None.
        has_begun: Whether training has begun, after everything was loaded.
    """

    def __init__(self, trainer: MeteredTrainer, effopd: EffOPDCallback | None) -> None:
        self.trainer = trainer
        self.effopd = effopd
        self.row: dict[str, Any] | None = None
        self.has_begun = False
        self._written = True
        self._has_ended = False
        self._totals: dict[str, float] = {}
        self._saved_totals: dict[str, float] = {}
        self._step_started = self._learning_rate = 0.0
        self._effopd_before: list[float] = []
        trl_hooks.on_resume(trainer, self._load)
        trl_hooks.remove_old_checkpoints_last(trainer)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start counting where the checkpoint stopped, or at 0, and drop the rows of steps that will be done again."""
        self.has_begun = True
        saved, self._saved_totals = self._saved_totals if state.global_step else {}, {}
        effopd = dict(zip(_EFFOPD_PHASES, self._effopd_seconds(), strict=True))
        self._totals = dict.fromkeys((*_COUNTS, *_PHASES), 0.0) | effopd | saved
        self.row, self._written, self._has_ended = None, True, False
        if state.is_world_process_zero:
            drop_later_steps(Path(args.output_dir) / METRICS, state.global_step)

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write(args, state)
        self._learning_rate = self.trainer.lr_scheduler.get_last_lr()[0]  # at the end of the step it is the next one's
        self.trainer.meter = StepMeter()
        self._step_started = time.perf_counter()
        self._effopd_before = self._effopd_seconds()

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Sum up over the processes what the step cost.

        Raises:
            DivergedError: The loss is not finite.
        """
        elapsed = time.perf_counter() - self._step_started
        effopd = [now - before for now, before in zip(self._effopd_seconds(), self._effopd_before, strict=True)]
        meter = self.trainer.meter
        accelerator = self.trainer.accelerator
        counts = torch.tensor([getattr(meter, name) for name in _COUNTS], device=accelerator.device)
        means = torch.tensor(
            [meter.loss, meter.reverse_kl, elapsed, *(getattr(meter, f"{phase}_seconds") for phase in _TIMED), *effopd],
            device=accelerator.device,
        )
        if accelerator.num_processes > 1:
            counts = accelerator.reduce(counts, "sum")
            means = accelerator.reduce(means, "mean")
        for name, value in zip(_COUNTS, counts.tolist(), strict=True):
            self._totals[name] += value
        loss, reverse_kl, elapsed, *seconds = means.tolist()
        check_finite(self.trainer, loss)
        for name, value in zip((*_TIMED, *_EFFOPD_PHASES), seconds, strict=True):
            self._totals[name] += value
        self._totals["update"] += elapsed - sum(seconds)
        self.row = self._make_row(state, loss, reverse_kl)
        self._written = False

    @override
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the norm of the gradient, which only the trainer's log has."""
        if self.row is not None and not self._written and logs and "grad_norm" in logs:
            self.row["grad_norm"] = float(logs["grad_norm"])

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Note the accuracy in the row of the step that was evaluated.

        That row may be written already: the end of an epoch is evaluated after its last step has been saved.
        """
        if self.row is not None and self.row["step"] == state.global_step and metrics and not self._has_ended:
            if self._written and state.is_world_process_zero:
                drop_later_steps(Path(args.output_dir) / METRICS, state.global_step - 1)
            self._written = False
            for key in ("accuracy", "accuracy_stderr"):
                self.row[key] = metrics.get(f"eval_{key}")
            if math.isnan(metrics.get("eval_accuracy", 0.0)):
                logger.warning(
                    "Step %d has no accuracy: the reward gave None or NaN for all evaluation prompts.",
                    state.global_step,
                )

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the row, then mark the checkpoint as complete."""
        self._write(args, state)
        self.trainer.accelerator.wait_for_everyone()
        if state.is_world_process_zero:
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            mark_complete(checkpoint, self._totals, args)

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._write(args, state)
        self._has_ended = True  # what is evaluated from now on is not the training's

    def _make_row(self, state: TrainerState, loss: float, reverse_kl: float) -> dict[str, Any]:
        cost = self.effopd.cost if self.effopd else dict.fromkeys(_COUNTS, 0)
        last = self.effopd.last if self.effopd else None
        seconds = {phase: self._totals[phase] for phase in (*_PHASES, *_EFFOPD_PHASES)}
        return {
            "step": state.global_step,
            "optimizer_steps": state.global_step * (self.effopd.config.passes if self.effopd else 1),
            "epoch": state.epoch,
            "learning_rate": self._learning_rate,
            "loss": loss,
            "reverse_kl": reverse_kl if hasattr(self.trainer, "teacher_model") else None,
            "grad_norm": None,
            "accuracy": None,
            "accuracy_stderr": None,
            "accepted_scale": last["accepted_scale"] if last and last["step"] == state.global_step else None,
            "rollouts": int(self._totals["rollouts"] + cost["rollouts"]),
            "validation_rollouts": int(cost["rollouts"]),
            "generated_tokens": int(self._totals["generated_tokens"] + cost["generated_tokens"]),
            "validation_tokens": int(cost["generated_tokens"]),
            "teacher_tokens": int(self._totals["teacher_tokens"] + cost["teacher_tokens"]),
            "reference_tokens": int(self._totals["reference_tokens"]),
            "seconds": seconds,
            "seconds_total": sum(seconds.values()),
        }

    def _write(self, args: TrainingArguments, state: TrainerState) -> None:
        if self.row is not None and not self._written and state.is_world_process_zero:
            for key, value in self.row.items():
                if isinstance(value, float):
                    self.row[key] = finite_or_none(value)
            append_json_line(Path(args.output_dir) / METRICS, self.row)
        self._written = True

    def _effopd_seconds(self) -> list[float]:
        return [self.effopd.cost[f"{phase}_seconds"] if self.effopd else 0.0 for phase in _EFFOPD_PHASES]

    def _load(self, checkpoint: str) -> None:
        self._saved_totals = read_complete(Path(checkpoint))["totals"]
