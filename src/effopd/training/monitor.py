"""`UpdateMonitorCallback`, which measures the weight update while it grows, and writes `updates.jsonl`.

The first row says what is watched:

    step                      step whose weights are the base: 0, or the step at which a run resumed from a checkpoint
                              without a monitor
    sampled, num_candidates   the matrices watched, and how many there were to choose from
    norms_of                  `all` if norms are those of all trainable parameters, `sample` if of the matrices watched
    bytes, seconds            CPU memory held between measurements, and time spent on copying the base
    every, max_share          the settings

The other rows are about the weights W_t that a step left:

    step, previous_step       that step, and the one measured before it, which at first is that of the base
    update_norm               Frobenius norm of W_t - W_base by module kind, and `total`; it is called
                              `sampled_update_norm` where it is that of the sample
    effective_rank, top1pct_norm_ratio    metrics of W_t - W_base, as means over the matrices watched, by module kind
                              and over all (`mean`)
    displacement_alignment    cosine of W_t - W_previous to the displacement measured before it, over all entries of
                              the matrices watched, in [-1, 1]; null at first, or where one of the two is zero
    matrices                  update_norm, effective_rank and top1pct_norm_ratio by name; null where not finite
    seconds, share            wall time of this measurement, and that divided by the time of the steps since the last
    next_step                 step at which the next measurement is due
"""

import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, broadcast_object_list, is_peft_model
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from effopd import trl_hooks
from effopd.checks import check_number
from effopd.errors import UnsupportedError
from effopd.files import append_json_line, drop_later_steps
from effopd.parameters import by_clean_name, select
from effopd.training.complete_checkpoints import MONITOR
from effopd.training.update_sample import SPECTRAL, UpdateSample, choose_matrices, num_bytes

logger = logging.getLogger(__name__)

UPDATES = "updates.jsonl"
NUM_MATRICES = 8


@dataclass
class _Progress:
    """The last and the next step to be measured, and the number of steps since the last and the time they took."""

    previous_step: int = 0
    next_step: int = 0
    steps: int = 0
    step_seconds: float = 0.0


class UpdateMonitorCallback(TrainerCallback):
    """Measures the weight update every few steps, for `updates.jsonl` in the output directory and the Trainer's log.

        trainer.add_callback(UpdateMonitorCallback(trainer, every=10))

    Spectral metrics (arXiv 2605.11739, Table 1) and alignment are those of a sample of weight matrices, which is the
    same during the whole run: as many from each module kind, evenly spaced in the order of the model, the first and the
    last included. Norms are those of all trainable parameters if a copy of them fits into `max_bytes`, else those of
    the sample; their name says which.

    The first process measures, on the CPU and in float64, and training waits for it. This takes at most `max_share` of
    the steps' time: if a measurement took more, as the first may, the next is put off to a later multiple of `every`.
    Weights, gradients and random numbers are not touched.

    It works with any `transformers.Trainer` on one process, under DDP, and under FSDP2, where matrices are gathered one
    by one. Add it after `EffOPDCallback`, so that it sees what an extrapolation left. What it remembers goes into
    checkpoints. When a run resumes from a checkpoint without that, it warns and measures the update from there on.

    Args:
        trainer: Trainer that this callback is added to.
        every: Number of steps between measurements, at least 1.
        num_matrices: Number of matrices to sample, at least 1. They are fewer if there are fewer, or if so many do not
            fit.
        parameters: Parameters to sample from: `attention_and_mlp`, `all`, or a regular expression (see
            `parameters.select`).
        max_share: Largest share of the time that measuring may take, in (0, 1]; None for no limit.
        max_bytes: Largest size of the copies in CPU memory between measurements: the base, the last and the last but
            one weights of the sample, and the base of all other parameters if that fits too.

    Raises:
        ConfigurationError: A setting is out of range, or no matrix matches or fits.
        UnsupportedError: The trainer uses PEFT adapters, DeepSpeed ZeRO-3 or FSDP1.

    Attributes:
        sampled: Names of the matrices in the sample.
        last: The last row, or None.
        seconds: Wall time that training has waited for this callback in seconds, apart from saving.
    """

    def __init__(
        self,
        trainer: Any,
        every: int = 10,
        num_matrices: int = NUM_MATRICES,
        parameters: str = "attention_and_mlp",
        max_share: float | None = 0.02,
        max_bytes: int = 2 << 30,
    ) -> None:
        check_number("every", every, low=1)
        check_number("num_matrices", num_matrices, low=1)
        if max_share is not None:
            check_number("max_share", max_share, above=0, high=1, remedy="For no limit, pass None.")
        _check_trainer(trainer)
        self.trainer, self.every, self.max_share = trainer, every, max_share
        self.parameters, self.num_matrices, self.max_bytes = parameters, num_matrices, max_bytes
        self._choose()
        self.last: dict[str, Any] | None = None
        self.seconds = 0.0
        self._step_started = 0.0
        self._progress = _Progress()
        self._sample = UpdateSample((), ())  # it stays empty on processes other than the first
        self._resume_from: Path | None = None
        trl_hooks.on_resume(trainer, self._remember_checkpoint)

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Copy the base, or read it from the checkpoint that training resumes from."""
        self._choose()  # once more, because FSDP2 has replaced the parameters, and perhaps changed their dtype
        rows = Path(args.output_dir) / UPDATES
        saved, self._resume_from = self._resume_from and self._resume_from / MONITOR, None
        if state.is_world_process_zero:
            if state.global_step:
                drop_later_steps(rows, state.global_step)
            else:
                rows.unlink(missing_ok=True)
            if saved and saved.exists():
                shapes = {name: tuple(weight.shape) for name, weight in self._watched.items()}
                self._sample, metadata = UpdateSample.load(saved, shapes, self.sampled)
                self._progress = _Progress(**metadata["progress"])
        if self._agree(bool(saved and saved.exists())):
            self._progress = self._agree(self._progress)
            return
        step, started = state.global_step, time.perf_counter()
        if step:
            logger.warning("The checkpoint has no %s: the update is measured from step %d on.", MONITOR, step)
        self._progress = _Progress(step, (step // self.every + 1) * self.every)
        self._sample = UpdateSample(self._gather(), self.sampled)
        self.seconds += (seconds := time.perf_counter() - started)
        if state.is_world_process_zero:
            append_json_line(rows, {"step": step, **self._summary, "seconds": seconds})
            logger.info("Measuring the update of %s", self._summary)

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._step_started = time.perf_counter()

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        progress, step = self._progress, state.global_step
        is_due = step >= progress.next_step
        if is_due and self.trainer.accelerator.device.type == "cuda":
            torch.cuda.synchronize()  # without this, the step's own work would be billed to the measurement
        started = time.perf_counter()
        progress.steps += 1
        progress.step_seconds += started - self._step_started
        if not is_due:
            return
        metrics = self._sample.measure(self._gather())
        row = {"step": step, "previous_step": progress.previous_step, self._norm_key: metrics.pop("update_norm")}
        self.last = row = self._agree(row | metrics | self._bill(step, time.perf_counter() - started))
        self._progress = _Progress(step, row["next_step"])
        if state.is_world_process_zero:
            append_json_line(Path(args.output_dir) / UPDATES, row)
        self._log(row, control)
        self.seconds += time.perf_counter() - started

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the weights that are remembered into the checkpoint that was just written."""
        path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / MONITOR
        if state.is_world_process_zero:
            self._sample.save(path, {"progress": asdict(self._progress)})

    def _choose(self) -> None:
        """Decide what to watch, which is the same on every process."""
        named = self.trainer.model.named_parameters()
        trainable = by_clean_name((name, weight) for name, weight in named if weight.requires_grad)
        matrices = [name for name in select(trainable, self.parameters) if trainable[name].ndim == 2]
        self.sampled = choose_matrices(matrices, trainable, self.num_matrices, self.max_bytes // 3)
        held = 2 * num_bytes(trainable, self.sampled)
        covers_all = held + num_bytes(trainable, trainable) <= self.max_bytes
        self._watched = trainable if covers_all else {name: trainable[name] for name in self.sampled}
        self._norm_key = "update_norm" if covers_all else "sampled_update_norm"
        self._summary = {
            "sampled": self.sampled,
            "num_candidates": len(matrices),
            "norms_of": "all" if covers_all else "sample",
            "bytes": held + num_bytes(trainable, self._watched),
            "every": self.every,
            "max_share": self.max_share,
        }

    def _bill(self, step: int, seconds: float) -> dict[str, Any]:
        """Say how long a measurement took, and at which step the next one may follow."""
        share = seconds / self._progress.step_seconds
        steps = share * self._progress.steps / self.max_share if self.max_share else 0
        next_step = (step // self.every + max(1, math.ceil(steps / self.every))) * self.every
        return {"seconds": seconds, "share": share, "next_step": next_step}

    def _log(self, row: Mapping[str, Any], control: TrainerControl) -> None:
        metrics = (self._norm_key, *SPECTRAL)
        values = {f"{metric}/{kind}": value for metric in metrics for kind, value in row[metric].items()}
        values["displacement_alignment"] = row["displacement_alignment"]
        values = {key: value for key, value in values.items() if value is not None}
        # This is logged at once, so that loggers get it under this step; and by transformers' own method, because TRL's
        # would empty the averages that it is collecting. `should_log` is put back, because any log counts as the one
        # that the Trainer may be about to do.
        if values:
            should_log = control.should_log
            Trainer.log(self.trainer, values)
            control.should_log = should_log

    def _gather(self) -> Iterator[tuple[str, Tensor]]:
        """Copy everything watched to the CPU of the first process, and nothing elsewhere. This is collective."""
        for name, parameter in self._watched.items():
            weight = parameter.detach()
            if isinstance(weight, DTensor):
                weight = weight.full_tensor()
            if self.trainer.accelerator.is_main_process:
                yield name, weight.to("cpu", copy=True, memory_format=torch.contiguous_format)

    def _agree(self, value: Any) -> Any:
        """Return on every process the value that the first process has."""
        return broadcast_object_list([value])[0] if self.trainer.accelerator.num_processes > 1 else value

    def _remember_checkpoint(self, checkpoint: str) -> None:
        self._resume_from = Path(checkpoint)


def _check_trainer(trainer: Any) -> None:
    accelerator = trainer.accelerator
    if is_peft_model(trainer.model):
        raise UnsupportedError(
            "The model has PEFT adapters, whose own weights do not show the update B A of the matrices they adapt. "
            "Train all parameters, or analyse checkpoints instead (effopd.checkpoints reads adapters)."
        )
    kind, state = accelerator.distributed_type, accelerator.state
    if kind == DistributedType.DEEPSPEED and state.deepspeed_plugin.zero_stage == 3:
        raise UnsupportedError("DeepSpeed ZeRO-3 takes parameters apart. Use ZeRO-1 or 2, FSDP2, or no monitor.")
    if kind == DistributedType.FSDP and state.fsdp_plugin.fsdp_version != 2:
        raise UnsupportedError("FSDP1 flattens parameters. Set fsdp_version: 2 in the accelerate configuration.")
