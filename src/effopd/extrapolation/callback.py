"""`EffOPDCallback`, which extrapolates the weights of any TRL trainer that generates."""

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from effopd import trl_hooks
from effopd.errors import CheckpointError, ConfigurationError, DivergedError
from effopd.extrapolation import checks
from effopd.extrapolation.guide import guided
from effopd.extrapolation.learning_rate import LearningRateMultiple
from effopd.extrapolation.line_search import line_search
from effopd.extrapolation.next_rollouts import NextRolloutsValidator
from effopd.extrapolation.optimizers import check_optimizer, forget_moments
from effopd.extrapolation.presets import ExtrapolationConfig, resolve_preset
from effopd.extrapolation.records import COSTS, RECORDS, make_record
from effopd.extrapolation.saved_state import load_state, save_state
from effopd.extrapolation.schedule import check_schedule, parse_schedule
from effopd.extrapolation.search import Score, SearchResult, search
from effopd.extrapolation.snapshot import Displacement, Snapshot
from effopd.extrapolation.snapshots import snapshot_of
from effopd.extrapolation.ties import warn_of_ties
from effopd.extrapolation.underflow import reason_to_skip, warn_of_underflow
from effopd.extrapolation.validation import RewardFunction, Validator, validate
from effopd.extrapolation.validators import make_validator
from effopd.files import append_json_line, drop_later_steps
from effopd.parameters import clean_name, select
from effopd.sampling import derived_seed


class EffOPDCallback(TrainerCallback):
    """Extrapolates the weights along their own update while they train (EffOPD, arXiv 2605.11739).

    After each step t of the schedule, it tries the weights `W_t + scale * (W_t - W_anchor)` for increasing scales, and
    keeps the last that were accepted. The anchor is what the trigger before left. With `preset="line_search"`, it does
    so before each step, on the rollouts that the step has sampled. It works on TRL's `DistillationTrainer`,
    `GRPOTrainer` and `RLOOTrainer`, under DDP, FSDP2 and DeepSpeed ZeRO, and with a LoRA adapter:

        trainer = DistillationTrainer(...)
        trainer.add_callback(EffOPDCallback(trainer, reward=reward_function))
        trainer.train()

    Each trigger appends a line to `extrapolations.jsonl` in the output directory (see `effopd.extrapolation.records`).

    Args:
        trainer: Trainer that this callback is added to.
        reward: Reward function, or several, with TRL's signature, for validation by reward; None takes the trainer's
            own.
        preset: Name of the settings, `paper`, `reference`, `adaptive` or `line_search`, or an `ExtrapolationConfig`.
        validation_dataset: Rows that the validation prompts are drawn from; None takes the training set.
        validator: Name of a validator, as in `ExtrapolationConfig`, in place of the preset's; or one of your own.
        allow_untested_trainer: Whether to accept a trainer of another class than those that this is tested with. Its
            `_generate_single_turn` has to give one completion for each prompt, from the weights as they are.
        **overrides: Settings of `ExtrapolationConfig` that differ from the preset.

    Raises:
        ConfigurationError: The settings, the validation set or the rewards cannot work.
        UnsupportedError: The trainer's weights cannot be extrapolated (see `effopd.extrapolation.checks`).

    Attributes:
        cost: Cost of all triggers so far, by the names that records have.
        num_accepted: Number of triggers at which a scale was accepted.
        last: Record of the last trigger, or None.
    """

    def __init__(
        self,
        trainer: Any,
        reward: RewardFunction | Sequence[RewardFunction] | None = None,
        preset: str | ExtrapolationConfig = "paper",
        validation_dataset: Any = None,
        validator: str | Validator | None = None,
        allow_untested_trainer: bool = False,
        **overrides: Any,
    ) -> None:
        self.trainer = trainer
        if isinstance(validator, str):
            overrides["validator"], validator = validator, None
        self.config = resolve_preset(preset, **overrides)
        self.validator = make_validator(validator or self.config.validator, reward)
        checks.check_validator(self.config, self.validator)
        checks.check_trainer(trainer, allow_untested_trainer)
        checks.check_device(self.config.snapshot_device)
        self._ahead = self.validator if isinstance(self.validator, NextRolloutsValidator) else None
        self._rows = checks.validation_rows(trainer, validation_dataset, self.config, ahead=self._ahead is not None)
        if self.config.scales or self._ahead:
            self.validator.check(trainer)
        self._names = select(
            (clean_name(name) for name, parameter in trainer.model.named_parameters() if parameter.requires_grad),
            self.config.parameters,
        )
        self._seed = trainer.args.seed if self.config.seed is None else self.config.seed
        if self.config.random_numbers == "shared" and trl_hooks.samples_on_a_server(trainer):
            raise ConfigurationError(
                "random_numbers='shared' cannot be had from a vLLM server, which is given no seed for each prompt. Use "
                "vllm_mode='colocate', or random_numbers='independent'."
            )
        checks.check_prompts(trainer, self._rows if isinstance(self._rows, list) else self._draw(step=0))
        self._triggers = parse_schedule(self.config.schedule)
        self._snapshot: Snapshot | None = None
        self._resume_from: Path | None = None
        self._rate = LearningRateMultiple()
        self._warned = {"ties": False, "underflow": False}
        trl_hooks.on_resume(trainer, self._remember_checkpoint)
        trl_hooks.on_start(trainer, self._check_added)
        trl_hooks.remove_old_checkpoints_last(trainer)
        self.cost: dict[str, float] = dict.fromkeys(COSTS, 0)
        self.num_accepted = 0
        self.last: dict[str, Any] | None = None

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Take the initial weights as the anchor, or, when training resumes, the anchor that was saved."""
        checks.check_added(self.trainer, self, state)
        trl_hooks.sync_reference_last(self.trainer)
        if self.config.scales:
            check_schedule(self._triggers, self.config.schedule, state.max_steps, first=2 if self._ahead else 1)
            if not self._ahead:
                self.validator.try_out(self.trainer, self._draw(step=0)[0])
        trl_hooks.add_tag(self.trainer, "effopd")
        self._let_go()  # where an earlier training was interrupted
        if self._ahead:
            self._ahead.watch(self.trainer, self._before_step, self.config.num_prompts, self.config.passes)
        self._snapshot = snapshot_of(self.trainer, self._names, self.config.snapshot_device)
        self.cost, self.num_accepted, self.last = dict.fromkeys(COSTS, 0), 0, None
        self._rate, self._optimizer_checked = LearningRateMultiple(), False
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
            saved = load_state(checkpoint, self._snapshot, asdict(self.config), self.trainer.accelerator)
            self.cost.update(saved["cost"])
            self.num_accepted = saved["num_accepted"]
            self._rate = LearningRateMultiple(**saved.get("rate", {}))
            if state.is_world_process_zero:
                drop_later_steps(records, state.global_step)
        if self._ahead:
            self._rate.attach(self.trainer.optimizer, self._is_added)

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._snapshot is None:
            raise ConfigurationError(
                "The EffOPDCallback came when training was under way. Add it before trainer.train()."
            )
        if self._ahead:
            self._ahead.end_step(self.config.passes)
        elif self._triggers(state.global_step):
            self._extrapolate(state.global_step)

    def _before_step(self) -> None:
        """Search on the rollouts that a step has sampled and not yet trained on, unless it is the first step."""
        if not self._is_added():  # it was removed after an interruption
            self._let_go()
            return
        step = self.trainer.state.global_step + 1
        if self._snapshot is not None and step > 1 and self._triggers(step):
            self._extrapolate(step)

    @override
    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Put the anchor into the checkpoint that was just written."""
        assert self._snapshot is not None
        checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        saved = {"cost": self.cost, "num_accepted": self.num_accepted, "config": asdict(self.config)}
        saved["rate"] = self._rate.state()
        save_state(checkpoint, self._snapshot, saved, self.trainer.accelerator, args.should_save)

    @override
    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Leave the trainer as it was."""
        self._let_go()

    def _is_added(self) -> bool:
        return self in self.trainer.callback_handler.callbacks

    def _let_go(self) -> None:
        trl_hooks.unwatch_rollouts(self.trainer)
        self._rate.detach()

    def _extrapolate(self, step: int) -> None:
        assert self._snapshot is not None
        if not self._optimizer_checked:
            check_optimizer(self.trainer.optimizer)
            self._optimizer_checked = True
        before = dict(self.cost)
        if self._ahead:
            self._ahead.read_by_teacher()
        with self._timed("extrapolation_seconds"):
            displacement = guided(self.config.guide, self._snapshot.displacement())
            self._snapshot.begin(displacement.moving)
        skipped = reason_to_skip(displacement)
        self._warned["underflow"] = self._warned["underflow"] or warn_of_underflow(displacement, step)
        evaluate, confirm = self._evaluators(step, displacement)
        try:
            config, scales = self.config, () if skipped else self.config.scales
            if self._ahead:
                result = line_search(evaluate, scales, config.max_kl, config.acceptance, config.min_delta)
            else:
                result = search(evaluate, scales, config.acceptance, confirm, config.min_delta)
            with self._timed("extrapolation_seconds"):
                self._finish(result)
        except BaseException:  # not even Ctrl-C may leave a candidate in the model
            self._snapshot.restore()
            self._publish(alone=True)
            raise
        with self._timed("extrapolation_seconds"):  # outside the try: once committed, W_t cannot be restored
            self._snapshot.commit()
        self._warned["ties"] = self._warned["ties"] or warn_of_ties(result, step)
        self.num_accepted += result.accepted_scale != 0
        cost = {key: self.cost[key] - before[key] for key in before}
        if self._ahead and result.candidates:
            self._rate.learn(
                1 + result.accepted_scale, self.trainer.optimizer, self.trainer.state.is_world_process_zero
            )
        self.last = make_record(
            step, result, displacement, skipped, cost, self._rate.multiple, self._snapshot.truncation
        )
        if self.trainer.state.is_world_process_zero:
            append_json_line(Path(self.trainer.args.output_dir) / RECORDS, self.last)
        for name in ("accepted_scale", "rollouts"):
            trl_hooks.log_metric(self.trainer, f"extrapolation/{name}", float(self.last[name]))

    def _evaluators(
        self, step: int, displacement: Displacement
    ) -> tuple[Callable[[float], Score], Callable[[float], Score] | None]:
        """Make the two functions that `search` scores a scale by: one to compare by, and one to confirm by, or None."""
        snapshot = self._snapshot
        assert snapshot is not None
        rows = self._draw(step)
        independent = self.config.random_numbers == "independent"
        samplings = count()  # numbers the samplings of this trigger, from 0 for W_t

        def evaluate(validator: Validator, scale: float) -> Score:
            with self._timed("extrapolation_seconds"):
                if scale:
                    snapshot.write_candidate(scale)
                    if snapshot.candidate_may_overflow(displacement, scale) and not snapshot.is_finite():
                        return Score(math.nan)
                self._publish()
            seed = derived_seed(self._seed, step, next(samplings) if independent else 0)
            with self._timed("validation_seconds"):
                try:
                    score = self._ahead.score_live() if self._ahead else validate(self.trainer, validator, rows, seed)
                except DivergedError as error:
                    score = Score(math.nan, rollouts=error.rollouts, generated_tokens=error.tokens)
            for key in ("rollouts", "generated_tokens", "teacher_tokens"):
                self.cost[key] += getattr(score, key)
            return score

        validator = self.validator.of_trigger()
        confirming = validator.confirmation()
        return partial(evaluate, validator), partial(evaluate, confirming) if confirming else None

    def _finish(self, result: SearchResult) -> None:
        """Leave the accepted weights in the model."""
        assert self._snapshot is not None
        if not result.candidates:
            return
        if not result.accepted_scale:
            self._snapshot.restore()
        elif self._ahead:
            self._ahead.note_sampler(self._snapshot.restore, self._publish)
        else:
            resampled = trl_hooks.discard_rollouts(self.trainer)
            for key, number in zip(("resampled_rollouts", "resampled_tokens"), resampled, strict=True):
                self.cost[key] += number
        if result.accepted_scale:
            self._snapshot.write_candidate(result.accepted_scale)
        if result.accepted_scale > 0 and self.config.resets_optimizer(self._ahead is not None):
            forget_moments(self.trainer.optimizer)  # they are of the place that the jump left
        self._publish()

    def _publish(self, alone: bool = False) -> None:
        """Let everything that holds a copy of the weights have them as they are now; see `Snapshot.publish`."""
        assert self._snapshot is not None
        self._snapshot.publish(alone)
        trl_hooks.publish_weights(self.trainer)

    def _draw(self, step: int) -> list[dict[str, Any]]:
        """Draw the validation examples of a trigger; none, if it takes the rollouts of training."""
        seed = self._seed + (step if self.config.redraw_prompts else 0)
        number = 0 if self._ahead else self.config.num_prompts
        indices = random.Random(seed).sample(range(len(self._rows)), number)
        return [self._rows[index] for index in indices]

    def _check_added(self) -> None:
        if self._snapshot is None:
            checks.warn_if_not_added(self.trainer, self)

    @contextmanager
    def _timed(self, key: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.cost[key] += trl_hooks.seconds_since(started, self.trainer)

    def _remember_checkpoint(self, checkpoint: str) -> None:
        self._resume_from = Path(checkpoint)
