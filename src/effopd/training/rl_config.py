"""The settings of `effopd train` for reinforcement learning: TRL's `GRPOConfig`, with what DAPO and PPO add to it."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from transformers.hf_argparser import HfArg
from trl import GRPOConfig

from effopd.checks import check_choice
from effopd.errors import ConfigurationError
from effopd.training.config import OPDConfig, check_training
from effopd.training.timeout import keep_timeout

RLMethod = Literal["grpo", "dapo", "ppo"]
RL_METHODS: tuple[str, ...] = get_args(RLMethod)

# What a field is where it is not set. DAPO's are those of arXiv 2503.14476, section 4.1, and of its public code.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo", "beta": 0.001},
    "dapo": {"loss_type": "dapo", "beta": 0.0, "epsilon_high": 0.28, "dynamic_sampling_rounds": 10},
    "ppo": {"loss_type": "dapo", "beta": 0.0, "gamma": 1.0, "gae_lambda": 1.0, "critic_learning_rate": 1e-5},
}
# DAPO's buffer is 4,096 tokens of 20,480.
_OVERLONG_SHARE = 5
# Fields that only one method reads.
_ONLY = {
    "overlong_buffer": "dapo",
    "dynamic_sampling_rounds": "dapo",
    "gamma": "ppo",
    "gae_lambda": "ppo",
    "critic_learning_rate": "ppo",
}
# Fields that a method fixes, and what else would be.
_FIXED = {
    "dapo": {
        "loss_type": "averages over the tokens of a step, which TRL calls 'dapo'",
        "beta": "has no KL term, so that beta is 0",
    },
    "ppo": {"loss_type": "averages over the tokens of a step, which TRL calls 'dapo'"},
}
# Fields of GRPO without effect on the others, or on any run of `effopd train`, and why.
_CRITIC = "takes its advantages from a critic, and does not compare the samples of a prompt"
_WITHOUT_EFFECT = {
    "scale_rewards": (("ppo",), _CRITIC),
    "multi_objective_aggregation": (("ppo",), _CRITIC),
    "reward_weights": (RL_METHODS, "is evaluated and validated by the sum of the rewards; weigh inside the functions"),
    "num_generations_eval": (RL_METHODS, "is evaluated on one sampled answer to each prompt"),
}


@dataclass
class RLConfig(GRPOConfig):
    """The settings of TRL's `GRPOConfig`, of which the method chooses those that are not set.

    Raises:
        ConfigurationError: A setting is not possible, or has no effect with the method.
    """

    method: str = HfArg(
        default="grpo",
        help="grpo: advantages relative to the other samples of a prompt. dapo: GRPO with clip-higher, a loss "
        "over tokens, dynamic sampling and overlong shaping. ppo: advantages from a critic, by GAE.",
    )
    beta: float | None = HfArg(
        default=None, help="Weight of the KL to the student's start. Default 0.001 for grpo, as in the paper, else 0."
    )
    loss_type: str | None = HfArg(
        default=None, help="How TRL averages the loss. Default grpo, over sequences, for grpo; else dapo, over tokens."
    )
    num_generations_eval: int | None = HfArg(
        default=1, help="Evaluation samples one answer to each prompt; leave it at 1."
    )
    overlong_buffer: int | None = HfArg(
        default=None,
        help="dapo: number of tokens before max_completion_length over which a punishment grows from 0 to 1. "
        "Default a fifth of max_completion_length; 0 for no punishment.",
    )
    dynamic_sampling_rounds: int | None = HfArg(
        default=None,
        help="dapo: how often prompts whose samples are all rewarded alike are replaced in a step, at most. "
        "Default 10; 0 for never.",
    )
    gamma: float | None = HfArg(default=None, help="ppo: discount per token, in [0, 1]. Default 1.")
    gae_lambda: float | None = HfArg(default=None, help="ppo: lambda of GAE, in [0, 1]. Default 1.")
    critic_learning_rate: float | None = HfArg(
        default=None, help="ppo: constant learning rate of the critic. Default 1e-5."
    )
    report_to: None | str | list[str] = HfArg(  # noqa: RUF036  (the order HfArgumentParser can read)
        default="tensorboard", help="Loggers: tensorboard, wandb, trackio, several of them, or none."
    )

    def __post_init__(self) -> None:
        """Fill in what the method chooses, and check the rest."""
        check_choice("method", self.method, RL_METHODS)
        self._check_effects()
        for name, value in _DEFAULTS[self.method].items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        # The new name, which older versions of transformers lack. TRL still sets the old one, of which it is warned.
        if getattr(self, "activation_checkpointing", False) is None:
            self.activation_checkpointing: bool | None = self.gradient_checkpointing
        super().__post_init__()
        keep_timeout(self)
        check_training(self)
        self._check_overlong()
        self._check_saves()
        if self.sync_ref_model and self.save_strategy != "no":
            raise ConfigurationError(
                "sync_ref_model moves the reference model, which no checkpoint holds, so that an interrupted run would "
                'continue with another. Leave it out, or set save_strategy: "no".'
            )

    def _check_effects(self) -> None:
        """Refuse fields that the method does not read, or fixes."""
        for name, method in _ONLY.items():
            if (value := getattr(self, name)) is not None and method != self.method:
                raise ConfigurationError(
                    f"{name}={value} has no effect with method={self.method!r}; leave it out, or set method to "
                    f"{method}."
                )
        defaults = {each.name: each.default for each in fields(self)}
        for name, (methods, reason) in _WITHOUT_EFFECT.items():
            if self.method in methods and (value := getattr(self, name)) != defaults[name]:
                raise ConfigurationError(
                    f"{name}={value!r} has no effect: method={self.method!r} {reason}. Leave it out."
                )
        for name, reason in _FIXED.get(self.method, {}).items():
            value, fixed = getattr(self, name), _DEFAULTS[self.method][name]
            if value is not None and value != fixed:
                raise ConfigurationError(
                    f"{name}={value!r}: method={self.method!r} {reason}. Leave it out, or set method to grpo."
                )

    def _check_overlong(self) -> None:
        """Set the buffer of overlong shaping, which depends on another field."""
        longest = self.max_completion_length
        if self.method != "dapo":
            return
        if self.overlong_buffer is None:
            self.overlong_buffer = longest // _OVERLONG_SHARE
        if self.overlong_buffer > longest:
            raise ConfigurationError(
                f"overlong_buffer={self.overlong_buffer} is longer than a completion (max_completion_length={longest})."
                " Give a smaller one."
            )

    def _check_saves(self) -> None:
        """Refuse checkpoints between two steps on the same rollouts, from which a run would not go on to the bit."""
        whole = self.steps_per_generation * self.num_iterations  # in micro-batches, as below
        if self.save_strategy in ("no", "epoch") or not self.gradient_accumulation_steps % whole:
            return
        if self.save_strategy != "steps" or self.save_steps * self.gradient_accumulation_steps % whole:
            steps = whole / self.gradient_accumulation_steps
            raise ConfigurationError(
                f"save_strategy={self.save_strategy.value!r} with save_steps={self.save_steps} would save between "
                f"optimizer steps that train on the same rollouts, of which there are {steps:g} "
                "(steps_per_generation, num_iterations), and checkpoints do not hold rollouts. Set save_steps to a "
                f"multiple of {steps:g}."
            )


TrainConfig = OPDConfig | RLConfig
