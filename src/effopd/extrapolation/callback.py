"""EffOPD as a callback: `trainer.add_callback(EffOPDCallback(trainer, reward=...))`."""

import json
import math
import random
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from effopd import trl_hooks
from effopd.errors import CheckpointError, ConfigurationError
from effopd.extrapolation.presets import ExtrapolationConfig, resolve_preset
from effopd.extrapolation.requirements import check_trainer, validation_rows
from effopd.extrapolation.schedule import parse_schedule
from effopd.extrapolation.search import Score, SearchResult, search
from effopd.extrapolation.snapshot import Displacement, Snapshot
from effopd.extrapolation.validation import (
    RewardFunction,
    Validator,
    make_validator,
    sampling_seed,
    validate,
)
from effopd.files import append_json_line, drop_later_steps, finite_or_none, write_json
from effopd.parameters import clean_name, select

# Below this share of changed elements, half-precision weights are losing most of the optimizer's updates.
MIN_CHANGED_FRACTION = 0.5
RECORDS = "extrapolations.jsonl"
_COSTS = ("rollouts", "generated_tokens", "teacher_tokens", "validation_seconds", "extrapolation_seconds")


class EffOPDCallback(TrainerCallback):
    """Extrapolates the weights along their own update while they train (EffOPD, arXiv 2605.11739).

    After step t of the schedule, the weights become the last accepted of `W_t + scale * (W_t - W_anchor)` for
    increasing scales, where the anchor is what was accepted at the trigger before. Works on TRL's
    `DistillationTrainer` and `GRPOTrainer`, under DDP and FSDP2:

        trainer = DistillationTrainer(...)
        trainer.add_callback(EffOPDCallback(trainer, reward=reward_function))
        trainer.train()

    Each trigger appends a line to `extrapolations.jsonl` in the trainer's output directory: `step`, `accepted_scale`,
    `baseline` and `candidates` (scores with standard errors), `delta_norm` by module kind, `cosine_to_previous`,
    `changed_fraction`, and the cost: `rollouts`, `generated_tokens`, `teacher_tokens`, `validation_seconds`,
    `extrapolation_seconds`.

    Args:
        trainer: The trainer this callback is added to.
        reward: For validation by reward: one function or several with TRL's reward signature. None: the trainer's own.
        preset: `paper`, `reference`, `adaptive`, or an `ExtrapolationConfig`.
        validation_dataset: Rows to draw the validation prompts from; None: the training set, as in the paper.
        validator: `reward`, `teacher_kl` or `shared_kl`, in place of the preset's; or a validator of your own.
        **overrides: Settings of `ExtrapolationConfig` that differ from the preset.

    Raises:
        ConfigurationError: The settings, the validation set or the rewards cannot work.
        UnsupportedError: The trainer's weights cannot be extrapolated (PEFT adapters, DeepSpeed, FSDP1).

    Attributes:
        cost: What all triggers so far cost: `rollouts`, `generated_tokens`, `teacher_tokens`, `validation_seconds`,
            `extrapolation_seconds`.
        num_accepted: Triggers at which a scale was accepted.
        last: The record of the last trigger, or None.
    """

    def __init__(
        self,
        trainer: Any,
        reward: RewardFunction | Sequence[RewardFunction] | None = None,
        preset: str | ExtrapolationConfig = "paper",
        validation_dataset: Any = None,
        validator: str | Validator | None = None,
        **overrides: Any,
    ) -> None:
        self.trainer = trainer
        if isinstance(validator, str):
            overrides["validator"], validator = validator, None
        self.config = resolve_preset(preset, **overrides)
        self.validator = make_validator(validator or self.config.validator, reward)
        check_trainer(trainer)
        self._rows = validation_rows(trainer, validation_dataset, self.config)
        if self.config.scales:
            self.validator.check(trainer)
        self._names = select(
            (clean_name(name) for name, parameter in trainer.model.named_parameters() if parameter.requires_grad),
            self.config.parameters,
        )
        self._seed = trainer.args.seed if self.config.seed is None else self.config.seed
        self._triggers = parse_schedule(self.config.schedule)
        self._snapshot: Snapshot | None = None
        self._resume_from: Path | None = None
        trl_hooks.on_resume(trainer, self._remember_checkpoint)
        self.cost: dict[str, float] = dict.fromkeys(_COSTS, 0)
        self.num_accepted = 0
        self.last: dict[str, Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the initial weights as the anchor, or the saved anchor when resuming."""
        if state is not self.trainer.state:
            raise ConfigurationError(
                "This EffOPDCallback was made for another trainer, whose weights it would move. Make one for each: "
                "trainer.add_callback(EffOPDCallback(trainer, ...))."
            )
        if sum(isinstance(callback, EffOPDCallback) for callback in self.trainer.callback_handler.callbacks) > 1:
            raise ConfigurationError(
                "The trainer has more than one EffOPDCallback, and would extrapolate as often. Leave one of them: "
                "trainer.remove_callback(EffOPDCallback) removes the first."
            )
        # By clean names: FSDP2 with activation checkpointing has wrapped the layers since.
        parameters = {clean_name(name): parameter for name, parameter in self.trainer.model.named_parameters()}
        self._snapshot = Snapshot({name: parameters[name] for name in self._names}, self.config.snapshot_device)
        self.cost, self.num_accepted, self.last = dict.fromkeys(_COSTS, 0), 0, None
        records = Path(args.output_dir) / RECORDS
        checkpoint, self._resume_from = self._resume_from, None
        if state.global_step == 0:
            if state.is_world_process_zero:
                records.unlink(missing_ok=True)
        elif checkpoint is None:
            raise CheckpointError(
                f"Training starts at step {state.global_step}, but not from a checkpoint whose extrapolation anchor "
                "is known. Resume with trainer.train(resume_from_checkpoint=DIRECTORY)."
            )
        else:
            self._load(checkpoint)
            if state.is_world_process_zero:
                drop_later_steps(records, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Extrapolate if the schedule says so."""
        if self._snapshot is None:
            raise ConfigurationError(
                "The EffOPDCallback came when training was under way. Add it before trainer.train()."
            )
        if self._triggers(state.global_step):
            self._extrapolate(state.global_step)
            if state.is_world_process_zero:
                append_json_line(Path(args.output_dir) / RECORDS, self.last)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the anchor beside the checkpoint that was just written."""
        assert self._snapshot is not None
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}" / "effopd"
        if self._snapshot.is_sharded or args.should_save:
            directory.mkdir(parents=True, exist_ok=True)
            self._snapshot.save(directory / self._shard_name())
        self.trainer.accelerator.wait_for_everyone()
        if args.should_save:
            saved = {"cost": self.cost, "num_accepted": self.num_accepted, "config": asdict(self.config)}
            write_json(directory / "state.json", saved)

    def _extrapolate(self, step: int) -> None:
        assert self._snapshot is not None
        before = dict(self.cost)
        with self._timed("extrapolation_seconds"):
            displacement = self._snapshot.measure()
            self._snapshot.begin()
        self._warn_of_underflow(displacement, step)
        try:
            # Candidates of weights that did not move would all be these weights.
            scales = self.config.scales if displacement.changed_fraction else ()
            result = search(self._evaluator(step, displacement), scales, self.config.acceptance)
            with self._timed("extrapolation_seconds"):
                self._finish(result)
        except BaseException:  # a Ctrl-C must not leave a candidate behind
            self._snapshot.restore()
            trl_hooks.publish_weights(self.trainer)
            raise
        with self._timed("extrapolation_seconds"):  # outside the try: once committed, W_t cannot be restored
            self._snapshot.commit()
        self.num_accepted += result.accepted_scale > 0
        self.last = _record(step, result, displacement, {key: self.cost[key] - before[key] for key in before})
        for name in ("accepted_scale", "rollouts"):
            trl_hooks.log_metric(self.trainer, f"extrapolation/{name}", float(self.last[name]))

    def _evaluator(self, step: int, displacement: Displacement) -> Callable[[float], Score]:
        """What `search` calls: scale -> score of the weights extrapolated by it."""
        snapshot = self._snapshot
        assert snapshot is not None
        rows, validator = self._draw(step), self.validator.of_trigger()
        independent = self.config.random_numbers == "independent"
        samplings = count()  # of this trigger: 0 is that of W_t

        def evaluate(scale: float) -> Score:
            if scale:
                with self._timed("extrapolation_seconds"):
                    snapshot.write_candidate(scale)
                    finite = not snapshot.candidate_may_overflow(displacement, scale) or snapshot.is_finite()
                if not finite:
                    return Score(math.nan)
            trl_hooks.publish_weights(self.trainer)
            with self._timed("validation_seconds"):
                seed = sampling_seed(self._seed, step, next(samplings) if independent else 0)
                score = validate(self.trainer, validator, rows, seed)
            for key in ("rollouts", "generated_tokens", "teacher_tokens"):
                self.cost[key] += getattr(score, key)
            return score

        return evaluate

    def _finish(self, result: SearchResult) -> None:
        """Leave the accepted weights in the model."""
        assert self._snapshot is not None
        last = result.candidates[-1] if result.candidates else None
        if result.accepted_scale == 0:
            if last is not None:
                self._snapshot.restore()
        elif last is not None and not last.accepted:
            self._snapshot.write_candidate(result.accepted_scale)
        if last is not None:
            trl_hooks.publish_weights(self.trainer)
        if result.accepted_scale:
            trl_hooks.discard_rollouts(self.trainer)

    def _draw(self, step: int) -> list[dict[str, Any]]:
        """The validation examples of a trigger."""
        seed = self._seed + (step if self.config.redraw_prompts else 0)
        indices = random.Random(seed).sample(range(len(self._rows)), self.config.num_prompts)
        return [self._rows[index] for index in indices]

    def _warn_of_underflow(self, displacement: Displacement, step: int) -> None:
        half = displacement.largest.keys() & {torch.bfloat16, torch.float16}
        if half and displacement.changed_fraction < MIN_CHANGED_FRACTION:
            warnings.warn(
                f"Step {step}: only {displacement.changed_fraction:.1%} of the weights differ from the anchor, because "
                f"updates round to nothing in {', '.join(str(dtype) for dtype in sorted(half, key=str))}. Train in "
                "mixed precision with float32 master weights: load the model with dtype='float32' and set bf16=True.",
                stacklevel=2,
            )

    @contextmanager
    def _timed(self, key: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.trainer.accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        self.cost[key] += time.perf_counter() - started

    def _remember_checkpoint(self, checkpoint: str) -> None:
        self._resume_from = Path(checkpoint)

    def _shard_name(self) -> str:
        """The file of this process. Replicas are the same, so they share one."""
        assert self._snapshot is not None
        accelerator = self.trainer.accelerator
        sharded = self._snapshot.is_sharded
        index, number = (accelerator.process_index, accelerator.num_processes) if sharded else (0, 1)
        return f"anchor-{index:05d}-of-{number:05d}.safetensors"

    def _load(self, checkpoint: Path) -> None:
        assert self._snapshot is not None
        directory = checkpoint / "effopd"
        if not (directory / "state.json").exists():
            raise CheckpointError(
                f"{checkpoint} holds no complete extrapolation state ({directory / 'state.json'} is missing): it was "
                "saved without this callback, or while being interrupted. Resume from another checkpoint, or start "
                "from its weights as a new run."
            )
        shard = directory / self._shard_name()
        if not self._snapshot.is_sharded:  # replicas once wrote a file each
            shard = min(directory.glob("anchor-00000-of-*.safetensors"), default=shard)
        if not shard.exists():
            shards = sorted(path.name for path in directory.glob("anchor-*"))
            raise CheckpointError(
                f"{directory} was saved by another number of processes, or sharded otherwise: it has {shards}, this "
                f"process needs {shard.name}. Resume with the processes and sharding that saved it."
            )
        saved = json.loads((directory / "state.json").read_text())
        self._snapshot.load(shard)
        self.cost.update(saved["cost"])
        self.num_accepted = saved["num_accepted"]


def _record(step: int, result: SearchResult, displacement: Displacement, cost: dict[str, float]) -> dict[str, Any]:
    def entry(score: Score) -> dict[str, float | None]:
        return {"score": finite_or_none(score.value), "stderr": finite_or_none(score.stderr)}

    return {
        "step": step,
        "accepted_scale": result.accepted_scale,
        "baseline": entry(result.baseline) if result.baseline else None,
        "candidates": [
            {"scale": c.scale, **entry(c.score), "accepted": c.accepted, "reason": c.reason} for c in result.candidates
        ],
        "delta_norm": {kind: finite_or_none(norm) for kind, norm in displacement.norms.items()},
        "cosine_to_previous": finite_or_none(displacement.cosine_to_previous),
        "changed_fraction": displacement.changed_fraction,
        **cost,
    }
