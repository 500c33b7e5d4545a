"""`Extrapolator`, which extrapolates in a training loop of your own, whatever trains and whatever samples."""

import math
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation.presets import resolve_preset
from effopd.extrapolation.schedule import parse_schedule
from effopd.extrapolation.search import Score, SearchResult, search
from effopd.extrapolation.shards import num_processes
from effopd.extrapolation.snapshot import Snapshot
from effopd.extrapolation.underflow import reason_to_skip, warn_of_underflow
from effopd.extrapolation.zero_snapshot import is_zero
from effopd.sampling import derived_seed, seeded

SETTINGS = ("schedule", "scales", "acceptance", "min_delta", "snapshot_device", "seed")


class Extrapolator:
    """Extrapolates weights along their own update while a loop trains them (EffOPD, arXiv 2605.11739).

    The loop calls `step` after each step of its optimizer, and `save` and `load` with its checkpoints. The optimizer
    must keep no weights of its own, averaged or as a master copy: it would undo a jump.

    Args:
        parameters: Live parameters to extrapolate, by name, as `Snapshot` takes them; or a snapshot of them.
        validate: Function that scores the live weights, by a number of which higher is better, or by a `Score`. It gets
            a random seed, one for W_t and others for the candidates. Torch is seeded with it, and gets its former state
            back. With several processes, all must return the same score.
        publish: Function that is called whenever the weights to sample from are others, for example to send them to an
            inference engine.
        **settings: Those of `ExtrapolationConfig` that `SETTINGS` names; the defaults are the paper's, and the seed 0.

    Raises:
        ConfigurationError: A setting cannot work, or a parameter is not of a floating dtype.
        UnsupportedError: DeepSpeed trains a parameter by ZeRO.

    Attributes:
        save, load: `Snapshot.save` and `Snapshot.load`: the anchor is all that a checkpoint needs besides.
    """

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor] | Snapshot,
        validate: Callable[[int], float | Score],
        publish: Callable[[], None] = lambda: None,
        **settings: Any,
    ) -> None:
        if others := sorted(settings.keys() - {*SETTINGS}):
            raise ConfigurationError(f"Extrapolator: got {others}, expected settings among {', '.join(SETTINGS)}.")
        self.config = resolve_preset("paper", **settings)
        self._validate, self._publish, self._triggers = validate, publish, parse_schedule(self.config.schedule)
        if not isinstance(parameters, Snapshot):
            if any(map(is_zero, parameters.values())):
                raise UnsupportedError(
                    "DeepSpeed makes these parameters from masters of its own, and would lose what is written to them. "
                    "Use EffOPDCallback with a trainer, or FSDP2."
                )
            parameters = Snapshot(parameters, self.config.snapshot_device)
        self._snapshot = parameters
        self.save, self.load = self._snapshot.save, self._snapshot.load

    def step(self, step: int) -> SearchResult | None:
        """Extrapolate after `step` steps of the optimizer if the schedule says so. This is collective.

        The weights are then the accepted ones; or W_t bit for bit, also if `validate` or `publish` raises. After
        such an error, `publish` is called once more with one process, and not with several, of which others may not
        know.

        Returns:
            What was tried and accepted; None if the schedule does not have the step.
        """
        if not self._triggers(step):
            return None
        snapshot, displacement, numbers = self._snapshot, self._snapshot.displacement(), count()
        snapshot.begin()
        warn_of_underflow(displacement, step)

        def evaluate(scale: float) -> Score:
            if scale:
                snapshot.write_candidate(scale)
                if snapshot.candidate_may_overflow(displacement, scale) and not snapshot.is_finite():
                    return Score(math.nan)
            self._publish()
            seed = derived_seed(self.config.seed or 0, step, next(numbers))
            with seeded(seed, next(iter(snapshot.parameters.values())).device):
                score = self._validate(seed)
            score = score if isinstance(score, Score) else Score(float(score))
            if self.config.min_delta and math.isnan(score.stderr) and not math.isnan(score.value):
                raise ConfigurationError(f"min_delta counts standard errors; validate returned {score} without one.")
            return score

        try:
            scales = () if reason_to_skip(displacement) else self.config.scales
            result = search(evaluate, scales, self.config.acceptance, min_delta=self.config.min_delta)
            if result.accepted_scale:
                snapshot.write_candidate(result.accepted_scale)
            else:
                snapshot.restore()
            self._publish()
        except BaseException:  # not even Ctrl-C may leave a candidate in the model
            snapshot.restore()
            if num_processes() == 1:  # others may not come here, and `publish` may wait for them
                self._publish()
            raise
        snapshot.commit()
        return result
