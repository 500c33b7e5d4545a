"""The named settings of EffOPD: the paper's rule, its public code's, and our own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from effopd.errors import ConfigurationError
from effopd.extrapolation.schedule import parse_schedule
from effopd.extrapolation.search import PAPER_SCALES, Acceptance, check_scales

ValidatorName = Literal["reward", "teacher_kl", "shared_kl"]
RandomNumbers = Literal["independent", "shared"]


@dataclass(frozen=True)
class ExtrapolationConfig:
    """What to extrapolate, when, how far, and how to judge it (defaults: arXiv 2605.11739, EffOPD).

    Attributes:
        schedule: `powers_of_two`, `every:PERIOD`, `every:PERIOD:FIRST`, or a list of optimizer steps.
        scales: Strictly increasing multiples of `W_t - anchor` that are tried in turn. Empty: no extrapolation.
        acceptance: `paper` accepts a score >= the best so far, `reference` only one > it.
        parameters: `all` trainable ones, `attention_and_mlp`, or a regular expression.
        validator: `reward`, `teacher_kl`, or `shared_kl`: all candidates of a trigger on the completions that W_t
            wrote, and the accepted one once more on its own.
        random_numbers: `independent`: W_t and each of its candidates sample their completions with random numbers of
            their own, as in the paper. `shared`: all of a trigger sample with the same ones, which is our variant and
            another rule. Weights that differ little then give nearly the same completions and tie exactly, so that
            `acceptance="paper"` takes small moves up to the largest scale, and `reference` refuses them.
        num_prompts: Validation prompts, one completion each.
        redraw_prompts: Draw other prompts at each trigger, rather than once before training.
        snapshot_device: Where the two copies of the parameters live; None: pinned CPU memory when training on an
            accelerator, beside the parameters otherwise.
        seed: Seeds the choice of prompts and the sampling of completions; None: the trainer's own seed.
    """

    schedule: str | tuple[int, ...] = "powers_of_two"
    scales: tuple[float, ...] = PAPER_SCALES
    acceptance: Acceptance = "paper"
    parameters: str = "all"
    validator: ValidatorName = "reward"
    random_numbers: RandomNumbers = "independent"
    num_prompts: int = 50
    redraw_prompts: bool = False
    snapshot_device: str | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: One of them cannot work.
        """
        for name, kinds in (("num_prompts", int), ("seed", int | None), ("redraw_prompts", bool)):
            value = getattr(self, name)
            if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is not bool):
                raise ConfigurationError(f"{name}: got {value!r}, expected {getattr(kinds, '__name__', kinds)}.")
        for name in ("schedule", "scales"):
            value = getattr(self, name)
            is_list = isinstance(value, Sequence) and all(isinstance(number, int | float) for number in value)
            if not is_list and not (name == "schedule" and isinstance(value, str)):
                raise ConfigurationError(f"{name}: got {value!r}, expected a list of numbers.")
        parse_schedule(self.schedule)
        object.__setattr__(self, "scales", check_scales(self.scales))
        for name, kind in (
            ("acceptance", Acceptance),
            ("validator", ValidatorName),
            ("random_numbers", RandomNumbers),
        ):
            if getattr(self, name) not in get_args(kind):
                raise ConfigurationError(
                    f"{name}={getattr(self, name)!r} is not known; use one of {list(get_args(kind))}."
                )
        if self.num_prompts < 1:
            raise ConfigurationError(
                f"The validation set is empty: num_prompts={self.num_prompts}. Use at least 1 (the paper uses 50)."
            )


PRESETS = {
    "paper": ExtrapolationConfig(),
    # The public code: strict improvement, and these parts of lower-cased names, so post_attention_layernorm as well.
    "reference": ExtrapolationConfig(
        acceptance="reference",
        parameters="(?i)attn|attention|mlp|ffn|feed_forward|[qkvo]_proj|(gate|up|down)_proj",
    ),
    # Ours: look after every step, double the scale while it helps, judge by the teacher on rollouts sampled once.
    "adaptive": ExtrapolationConfig(
        schedule="every:1", scales=tuple(2.0**k for k in range(10)), validator="shared_kl", num_prompts=32
    ),
}


def resolve_preset(preset: str | ExtrapolationConfig, **overrides: Any) -> ExtrapolationConfig:
    """A preset by name, with some of its settings changed.

    Raises:
        ConfigurationError: The preset or a setting is not known, or a value cannot work.
    """
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ConfigurationError(f"The preset {preset!r} is not known; use one of {list(PRESETS)}.")
        preset = PRESETS[preset]
    unknown = overrides.keys() - preset.__dataclass_fields__.keys()
    if unknown:
        raise ConfigurationError(
            f"Unknown extrapolation settings {sorted(unknown)}; the settings are {list(preset.__dataclass_fields__)}."
        )
    for name in ("schedule", "scales"):
        if isinstance(overrides.get(name), Sequence) and not isinstance(overrides[name], str):
            overrides[name] = tuple(overrides[name])
    return replace(preset, **overrides)
