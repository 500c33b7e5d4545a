"""`EffOPDTrainer`: verl's synchronous trainer, which extrapolates at the end of a step."""

import random
import time
import warnings
from pathlib import Path
from typing import Any

import ray
from typing_extensions import override
from verl.trainer.ppo.utils import Role
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils.debug import marked_timer

from effopd.errors import ConfigurationError
from effopd.extrapolation import Extrapolator, Score, parse_schedule
from effopd.extrapolation.own_loop import SETTINGS
from effopd.extrapolation.records import COSTS, RECORDS, make_record
from effopd.extrapolation.schedule import check_schedule
from effopd.extrapolation.ties import warn_of_ties
from effopd.extrapolation.underflow import reason_to_skip
from effopd.files import append_json_line, drop_later_steps
from effopd.integrations.verl.remote_snapshot import RemoteSnapshot
from effopd.integrations.verl.settings import check_supported, read_settings
from effopd.integrations.verl.validation import validate
from effopd.integrations.verl.worker import ExtrapolatingWorker

EXPERIMENTAL = (
    "EffOPD in verl is experimental: it is tested on verl's FSDP2 engine on CPUs, with a stand-in for the rollout "
    "engine, and has not been run on a GPU. docs/verl.md says what was run."
)


@register_trainer("effopd")
class EffOPDTrainer(PPOTrainerSync):
    """verl's trainer for rollouts in step with training, with EffOPD (arXiv 2605.11739). Experimental.

    A trigger comes at the end of `step`: verl saves its checkpoint between `step` and `on_step_end`, so the checkpoint
    has the accepted weights; and `on_step_end` sends these to the rollout engine, which sleeps until then. A step is
    one of verl's: all updates that it makes with one batch of rollouts.

    Args:
        config: Configuration of verl. Its section `effopd` has the settings: see `effopd.integrations.verl.settings`.

    Raises:
        ConfigurationError: The settings, or how validation samples, cannot work.
        UnsupportedError: The weights cannot be extrapolated (anything but plain weights under FSDP2).
    """

    def __init__(self, config: Any) -> None:
        warnings.warn(EXPERIMENTAL, stacklevel=2)
        self._settings = read_settings(config.get("effopd") or {})
        check_supported(config)
        config.trainer.v1.trainer_mode = "sync"  # by any other name, verl's parts take a trainer for asynchronous
        super().__init__(config)
        self._records = Path(config.trainer.default_local_dir) / RECORDS
        self._warned_of_ties = False

    @override
    def _init_resource_pool_mgr(self) -> None:
        """Put our worker in the place of verl's."""
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping.keys() & {Role.ActorRollout, Role.ActorRolloutRef}:
            self.role_worker_mapping[role] = ray.remote(ExtrapolatingWorker)

    @override
    def _load_checkpoint(self) -> None:
        """Take the initial weights as the anchor, or, when training resumes, the anchor that was saved."""
        rows, schedule = len(self.train_dataset), self._settings.schedule
        if rows < self._settings.num_prompts:
            raise ConfigurationError(
                f"Validation needs {self._settings.num_prompts} prompts, the training set has {rows}. Add rows, or set "
                f"effopd.num_prompts to at most {rows}."
            )
        if self._settings.scales:
            check_schedule(parse_schedule(schedule), schedule, self.total_training_steps)
        self._snapshot = RemoteSnapshot(self.actor_rollout_wg, self._settings)
        super()._load_checkpoint()
        if self.global_steps:
            drop_later_steps(self._records, self.global_steps)
        else:
            self._records.unlink(missing_ok=True)
        settings = {name: getattr(self._settings, name) for name in SETTINGS}
        self._extrapolator = Extrapolator(self._snapshot, self._validate_live, **settings)

    @override
    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> Any:
        """Do verl's step, and extrapolate after it if the schedule says so."""
        batch = super().step(metrics, timing_raw)
        with marked_timer("extrapolation", timing_raw):
            self._extrapolate(metrics)
        return batch

    def _extrapolate(self, metrics: dict[str, Any]) -> None:
        self._cost: dict[str, float] = dict.fromkeys(COSTS, 0)
        before = self._snapshot.seconds
        result = self._extrapolator.step(self.global_steps)
        if result is None:
            return
        assert self._snapshot.last is not None
        self._cost["extrapolation_seconds"] = self._snapshot.seconds - before
        skipped = reason_to_skip(self._snapshot.last)
        record = make_record(self.global_steps, result, self._snapshot.last, skipped, self._cost)
        append_json_line(self._records, record)
        self._warned_of_ties = self._warned_of_ties or warn_of_ties(result, self.global_steps)
        metrics |= {f"extrapolation/{name}": float(record[name]) for name in ("accepted_scale", "rollouts")}

    def _validate_live(self, seed: int) -> Score:
        """Score the live weights. The rollout engine draws its own random numbers, so the seed has no use."""
        started = time.perf_counter()
        score = validate(self, self._draw())
        self._cost["validation_seconds"] += time.perf_counter() - started
        for name in ("rollouts", "generated_tokens", "teacher_tokens"):
            self._cost[name] += getattr(score, name)
        return score

    def _draw(self) -> list[int]:
        """Draw the validation prompts among the rows of the training set: the same at every trigger, unless redrawn."""
        seed = (self._settings.seed or 0) + (self.global_steps if self._settings.redraw_prompts else 0)
        return random.Random(seed).sample(range(len(self.train_dataset)), self._settings.num_prompts)
