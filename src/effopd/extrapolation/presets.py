"""The settings of EffOPD, and those that have names: the rule of the paper, that of its public code, and our own."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from effopd.checks import check_choice, check_fields, check_number, check_whole
from effopd.errors import ConfigurationError
from effopd.extrapolation.guide import ALL, parse_guide
from effopd.extrapolation.schedule import parse_schedule
from effopd.extrapolation.search import PAPER_SCALES, Acceptance, check_scales

ValidatorName = Literal["reward", "teacher_kl", "shared_kl", "next_rollouts"]
RandomNumbers = Literal["independent", "shared"]


@dataclass(frozen=True)
class ExtrapolationConfig:
    """What to extrapolate, when, how far, and how to judge it. The defaults are those of arXiv 2605.11739, EffOPD.

    Attributes:
        schedule: Steps at which to extrapolate: `powers_of_two`, `every:PERIOD`, `every:PERIOD:FIRST`, or a list of
            optimizer steps.
        scales: Strictly increasing multiples of `W_t - anchor` that are tried in turn; with none, nothing is
            extrapolated.
        acceptance: Rule that accepts a candidate: `paper` if its score is at least the best so far, `reference` only if
            it is better.
        min_delta: Number of standard errors, at least 0, by which a candidate must also be better than the best so far.
            Where all weights of a trigger are scored on the same completions (`shared_kl`), the error is that of the
            paired differences; otherwise it is that of the difference of two independent means. With `next_rollouts`,
            the best scale must be better than W_t by so much. With 0, `acceptance` alone decides; above 0, ties are
            refused.
        parameters: Parameters to extrapolate: `all` that are trained, `attention_and_mlp`, or those whose names match a
            regular expression.
        guide: Which of these parameters a trigger extrapolates, while the others stay at W_t: `all`; those that moved
            most, `utility:THRESHOLD`; or those that went on in the direction of the displacement before,
            `alignment:THRESHOLD` (see `effopd.extrapolation.guide`).
        validator: Score that candidates are judged by: `reward`, `teacher_kl`, or `shared_kl`, which judges all
            candidates of a trigger on the completions that W_t wrote, and the accepted one once more on its own; or
            `next_rollouts`, which judges them on the rollouts that the next step has sampled from W_t, before it trains
            on them, and searches for the best scale as `effopd.extrapolation.line_search` says.
        random_numbers: With `independent`, W_t and each of its candidates sample their completions with random numbers
            of their own, as in the paper. With `shared`, all weights of a trigger sample with the same random numbers,
            which is our variant and another rule: weights that differ little then give nearly the same completions and
            tie exactly, so that `acceptance="paper"` takes small moves up to the largest scale, and `reference` refuses
            them.
        num_prompts: Number of validation prompts, at least 1. Each gets one completion. For `next_rollouts`, number of
            the step's rollouts to judge by, or all if it has fewer.
        redraw_prompts: Whether to draw other prompts at each trigger, and not only once before training.
        passes: Number of optimizer steps on each step's rollouts, at least 1, before candidates are tried. More than
            one needs `next_rollouts`, which finds out if they went too far.
        max_kl: Trust region of `next_rollouts`: largest KL from a candidate to W_t, in nats per token. With None, there
            is no bound.
        reset_optimizer: Whether an accepted jump empties the optimizer's state, whose moments are of the place that it
            leaves. With None, only `next_rollouts` does so, at scales above 0.
        snapshot_device: Device of the two copies of the parameters. With None, they are in pinned CPU memory when
            training on an accelerator, and beside the parameters otherwise.
        seed: Random seed for choosing prompts and sampling completions; with None, the trainer's own seed.
    """

    schedule: str | tuple[int, ...] = "powers_of_two"
    scales: tuple[float, ...] = PAPER_SCALES
    acceptance: Acceptance = "paper"
    min_delta: float = 0.0
    parameters: str = "all"
    guide: str = ALL
    validator: ValidatorName = "reward"
    random_numbers: RandomNumbers = "independent"
    num_prompts: int = 50
    redraw_prompts: bool = False
    passes: int = 1
    max_kl: float | None = None
    reset_optimizer: bool | None = None
    snapshot_device: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: A setting has the wrong type or is not possible.
        """
        check_whole("num_prompts", self.num_prompts, 1, remedy="The paper uses 50.")
        if self.seed is not None and (not isinstance(self.seed, int) or isinstance(self.seed, bool)):
            raise ConfigurationError(f"seed: got {self.seed!r}, expected a whole number, or None.")
        if not isinstance(self.redraw_prompts, bool):
            raise ConfigurationError(f"redraw_prompts: got {self.redraw_prompts!r}, expected True or False.")
        if self.reset_optimizer is not None and not isinstance(self.reset_optimizer, bool):
            raise ConfigurationError(f"reset_optimizer: got {self.reset_optimizer!r}, expected True, False or None.")
        for name in ("schedule", "scales"):
            value = getattr(self, name)
            is_list = isinstance(value, Sequence) and all(isinstance(number, int | float) for number in value)
            if not is_list and not (name == "schedule" and isinstance(value, str)):
                raise ConfigurationError(f"{name}: got {value!r}, expected a list of numbers.")
        check_whole("passes", self.passes, 1)
        if self.max_kl is not None:
            check_number("max_kl", self.max_kl, above=0, remedy="For no bound, leave it out.")
        parse_schedule(self.schedule)
        parse_guide(self.guide)
        object.__setattr__(self, "scales", check_scales(self.scales))
        check_number("min_delta", self.min_delta, low=0, remedy="With 0, the acceptance rule alone decides.")
        check_choice("acceptance", self.acceptance, get_args(Acceptance))
        check_choice("validator", self.validator, get_args(ValidatorName))
        check_choice("random_numbers", self.random_numbers, get_args(RandomNumbers))
        self._check_fit()

    def resets_optimizer(self, looks_ahead: bool) -> bool:
        """Tell whether a jump empties the optimizer's state, given whether `next_rollouts` judges it."""
        return looks_ahead if self.reset_optimizer is None else self.reset_optimizer

    def _check_fit(self) -> None:
        """Refuse settings that have no effect beside the others, or that would refuse every candidate."""
        if self.min_delta and self.num_prompts == 1:
            raise ConfigurationError(
                f"min_delta={self.min_delta} counts standard errors, and a single validation prompt has none. Raise "
                "num_prompts, or leave min_delta out."
            )
        looks_ahead = self.validator == "next_rollouts"
        if looks_ahead and self.guide != ALL:
            raise ConfigurationError(
                f"guide={self.guide!r} does not go with validator='next_rollouts', which adapts the learning rate of "
                "all parameters to the scale that it accepts. Leave it out, or use preset='paper'."
            )
        without_effect = ("random_numbers", "redraw_prompts") if looks_ahead else ("passes", "max_kl")
        defaults = {field.name: field.default for field in fields(self)}
        for name in without_effect:
            if (value := getattr(self, name)) != defaults[name]:
                raise ConfigurationError(
                    f"{name}={value!r} has no effect with validator={self.validator!r}; leave it out"
                    f"{'.' if looks_ahead else ', or use preset=' + repr('line_search') + '.'}"
                )


PRESETS = {
    "paper": ExtrapolationConfig(),
    # The paper's public code asks for strict improvement, and selects names that have one of these parts in any case;
    # so it takes post_attention_layernorm as well, and q_norm and k_norm of Qwen3.
    "reference": ExtrapolationConfig(
        acceptance="reference",
        parameters="(?i)attn|attention|mlp|ffn|feed_forward|[qkvo]_proj|(gate|up|down)_proj",
    ),
    # Ours tries to extrapolate after every step, doubles the scale while that helps, and lets the teacher judge on
    # rollouts that are sampled once.
    "adaptive": ExtrapolationConfig(
        schedule="every:1", scales=tuple(2.0**k for k in range(10)), validator="shared_kl", num_prompts=32
    ),
    # Ours looks for the best scale at every step, on rollouts that the next step needs anyway.
    "line_search": ExtrapolationConfig(
        schedule="every:1",
        scales=tuple(2.0**k - 1 for k in range(1, 21)),  # 2, 4, 8, ... times the optimizer's own update
        acceptance="reference",
        validator="next_rollouts",
        num_prompts=64,
        passes=4,
        max_kl=0.1,
    ),
}


def resolve_preset(preset: str | ExtrapolationConfig, **overrides: Any) -> ExtrapolationConfig:
    """Find a preset by its name, and change some of its settings.

    Raises:
        ConfigurationError: The preset or a setting is not known, or a value cannot work.
    """
    if isinstance(preset, str):
        check_choice("preset", preset, PRESETS)
        preset = PRESETS[preset]
    check_fields("extrapolation", overrides, type(preset))
    for name in ("schedule", "scales"):
        if isinstance(overrides.get(name), Sequence) and not isinstance(overrides[name], str):
            overrides[name] = tuple(overrides[name])
    return replace(preset, **overrides)
