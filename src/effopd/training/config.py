"""The settings of `effopd train`: TRL's `DistillationConfig` with the estimator; and the models, data and reward."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from transformers import TrainingArguments
from transformers.hf_argparser import HfArg
from trl import DistillationConfig

from effopd.checks import check_choice, check_number
from effopd.errors import ConfigurationError
from effopd.extrapolation.presets import PRESETS, ExtrapolationConfig, resolve_preset
from effopd.training.best_model import rate_by_accuracy
from effopd.training.timeout import keep_timeout

Method = Literal["opd", "exopd", "alphaopd"]
Estimator = Literal["full_vocab", "sampled"]
# Lambda of ExOPD where none is given, that of its authors' scripts (arXiv 2602.12125).
EXOPD_LAMBDA = 1.25

# Bounds of the fields that neither TRL nor transformers checks before it uses them.
_BOUNDS: dict[str, dict[str, Any]] = {
    "per_device_train_batch_size": {"low": 1},
    "per_device_eval_batch_size": {"low": 1},
    "gradient_accumulation_steps": {"low": 1},
    "max_completion_length": {"low": 1},
    "learning_rate": {"low": 0},
    "weight_decay": {"low": 0},
    "adam_beta1": {"low": 0, "below": 1},
    "adam_beta2": {"low": 0, "below": 1},
    "adam_epsilon": {"low": 0},
    "max_grad_norm": {"low": 0},
    "temperature": {"above": 0},
    "top_p": {"above": 0, "high": 1},
    "vllm_importance_sampling_clip_max": {"low": 1},
    "exopd_lambda": {"above": 0},
    "top_k": {"low": 0, "remedy": "For no limit, write 0."},
    "beta": {"low": 0},
    "epsilon": {"above": 0},
    "epsilon_high": {"above": 0},
    "num_iterations": {"low": 1},
    "overlong_buffer": {"low": 0, "remedy": "For no punishment, write 0."},
    "dynamic_sampling_rounds": {"low": 0, "remedy": "For no dynamic sampling, write 0."},
    "gamma": {"low": 0, "high": 1},
    "gae_lambda": {"low": 0, "high": 1},
    "critic_learning_rate": {"above": 0},
}
# Values with which completions are sampled from the whole distribution.
_WHOLE_DISTRIBUTION = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


def _generation_kwargs(config: TrainingArguments) -> dict[str, Any]:
    given = getattr(config, "generation_kwargs", None)
    return given if isinstance(given, dict) else {}  # TRL refuses others


def check_training(config: TrainingArguments) -> None:
    """Check what neither TRL nor transformers checks, for whichever method.

    Raises:
        ConfigurationError: A number is not possible, or checkpoints would lack what continuing needs.
    """
    if config.save_only_model and config.save_strategy != "no":
        raise ConfigurationError(
            "save_only_model=True saves no optimizer state, without which a run that is interrupted would go on to "
            "other weights. Leave it out, or set save_strategy to 'no' and use the final model."
        )
    if "temperature" in _generation_kwargs(config):
        raise ConfigurationError(
            "generation_kwargs has a temperature, of which the loss would not know. Set the field temperature instead."
        )
    for name, bounds in _BOUNDS.items():
        if (value := getattr(config, name, None)) is not None:
            check_number(name, value, **bounds)
    rate_by_accuracy(config)


@dataclass
class OPDConfig(DistillationConfig):
    """The settings of TRL's `DistillationConfig`, the method, and the estimator of what it minimises.

    The correction for vLLM has the names that it has in TRL's `GRPOConfig`, and its mode `token_truncate`.
    """

    method: str = HfArg(
        default="opd",
        help="opd: on-policy distillation. exopd: beyond the teacher, away from a reference model. alphaopd: "
        "opd, at the end of which the weights are extrapolated to a target accuracy.",
    )
    exopd_lambda: float | None = HfArg(
        default=None, help=f"ExOPD's factor, above 0: 1 is opd, larger goes beyond the teacher. Default {EXOPD_LAMBDA}."
    )
    estimator: str = HfArg(
        default="full_vocab",
        help="full_vocab: the exact divergence over the vocabulary at each sampled prefix, which is TRL's own; "
        "beta chooses it. sampled: the paper's policy gradient on the sampled log-ratio, discount 0.",
    )

    vllm_importance_sampling_correction: bool = HfArg(
        default=True,
        help="Whether estimator=sampled weighs each token by the ratio of the trainer's probability to that of "
        "vLLM, where vLLM samples. It has no effect otherwise.",
    )
    vllm_importance_sampling_clip_max: float = HfArg(
        default=5.0, help="Number that these ratios are truncated at, at least 1; the paper's is 5."
    )
    report_to: None | str | list[str] = HfArg(  # noqa: RUF036  (the order HfArgumentParser can read)
        default="tensorboard", help="Loggers: tensorboard, wandb, trackio, several of them, or none."
    )

    def __post_init__(self) -> None:
        """Check the estimator, and the numbers that TRL and transformers do not check.

        Raises:
            ConfigurationError: The estimator is not known or does not fit the other settings, or a number is not
                possible.
        """
        # The new name, which older versions of transformers lack. TRL still sets the old one, of which it is warned.
        if getattr(self, "activation_checkpointing", False) is None:
            self.activation_checkpointing: bool | None = self.gradient_checkpointing
        super().__post_init__()
        keep_timeout(self)
        check_training(self)
        check_choice("method", self.method, get_args(Method))
        check_choice("estimator", self.estimator, get_args(Estimator))
        self._check_exopd()
        if self.estimator == "sampled" and self.beta != 1.0:
            raise ConfigurationError(
                f"estimator='sampled' is the reverse KL; beta={self.beta} has no effect on it. Leave beta at 1.0, or "
                "use estimator='full_vocab'."
            )
        sampled = vars(self) | _generation_kwargs(self)  # as TRL puts them over the fields
        truncated = {
            name: value
            for name, whole in _WHOLE_DISTRIBUTION.items()
            if (value := sampled.get(name)) is not None and value != whole
        }
        if self.estimator == "sampled" and truncated:
            raise ConfigurationError(
                f"estimator='sampled' takes its log-ratio over the whole vocabulary, and {truncated} changes what is "
                "sampled from, which biases its gradient. Leave that out, or use estimator='full_vocab'."
            )

    @property
    def reads_reference(self) -> bool:
        """Whether the method needs the log-probabilities of a reference model. ExOPD with lambda = 1 does not."""
        return self.method == "exopd" and self.exopd_lambda != 1.0

    def _check_exopd(self) -> None:
        if self.method != "exopd":
            if self.exopd_lambda is not None:
                raise ConfigurationError(
                    f"exopd_lambda={self.exopd_lambda} has no effect with method={self.method!r}; leave it out, or set "
                    "method to exopd."
                )
            return
        if self.exopd_lambda is None:
            self.exopd_lambda = EXOPD_LAMBDA
        if self.reads_reference and self.beta != 1.0:
            raise ConfigurationError(
                f"method='exopd' replaces the log-ratio in the reverse KL, and beta={self.beta} is another divergence, "
                "for which it is not defined. Leave beta at 1.0."
            )


@dataclass
class RunArguments:
    """The models, data, reward and acceleration of a run."""

    model_name_or_path: str = field(
        metadata={"help": "Student: a directory, a hub name, 'world:base' or 'world:facts/base'."}
    )
    dataset_name: str = field(
        metadata={"help": "Training prompts: a hub name, a .jsonl / .json / .parquet file, or 'world:train'."}
    )
    dataset_config: str | None = HfArg(default=None, help="Configuration of a hub dataset.")
    dataset_split: str = HfArg(default="train", help="Split of a hub dataset; slice of a file.")
    num_train_examples: int | None = HfArg(default=None, help="Number of rows to use, from the first on.")
    prompt_column: str = HfArg(default="prompt", help="Column of the prompts: text or messages.")
    answer_column: str = HfArg(default="answer", help="Column of the answers that rewards compare with.")
    tests_column: str = HfArg(
        default="tests",
        help="Column of the tests for the reward 'code', or a key inside it: reward_model.ground_truth.",
    )
    answer_after: str | None = HfArg(default=None, help="Mark after which the answer follows.")
    prompt_template: str | None = HfArg(default=None, help="Text around the prompt, with {prompt} in it.")
    system_prompt: str | None = HfArg(default=None, help="System message put before each prompt.")
    pad_token: str | None = HfArg(default=None, help="Padding token, for tokenizers that have none.")
    eos_token: str | None = HfArg(
        default=None, help="Token that also ends a completion, e.g. the teacher's end of turn for a base student."
    )
    reward: list[str] = HfArg(
        default_factory=list,
        help="'world', 'math', 'code' or 'package.module:function' (TRL's reward signature); several are summed.",
    )
    evaluation_dataset_name: str | None = HfArg(
        default=None, help="Prompts to measure accuracy on, outside the counted cost."
    )
    evaluation_config: str | None = HfArg(default=None, help="Configuration of a hub evaluation dataset.")
    evaluation_split: str = HfArg(default="test", help="Its split; slice of a file: test[-500:].")
    evaluation_prompt_column: str | None = HfArg(
        default=None, help="Column of the evaluation prompts, if it is not prompt_column."
    )
    evaluation_answer_column: str | None = HfArg(
        default=None, help="Column of the evaluation answers, if it is not answer_column."
    )
    num_evaluation_examples: int | None = HfArg(default=None, help="Number of rows to evaluate on.")
    validation_dataset_name: str | None = HfArg(
        default=None, help="Prompts that extrapolation is validated on; by default those of training."
    )
    acceleration: str = HfArg(default="paper", help=f"none, or an EffOPD preset: {', '.join(PRESETS)}.")
    extrapolation: dict[str, Any] | str | None = HfArg(
        default=None, help="Settings of ExtrapolationConfig that differ from the preset."
    )
    target_accuracy: float | None = HfArg(default=None, help="Stop when an evaluation reaches this accuracy.")
    stop_without_improvement: int | None = HfArg(
        default=None, help="Stop after so many evaluations in a row of which none is better than all before them."
    )
    reference_model_name_or_path: str | None = HfArg(
        default=None, help="Reference model of method=exopd; by default what the student starts from."
    )
    alphaopd_target: float | None = HfArg(default=None, help="Accuracy that method=alphaopd extrapolates to.")
    freeze: list[str] = HfArg(
        default_factory=list,
        help="Parameters that are not trained: attention_and_mlp, or regular expressions of names.",
    )
    freeze_like: str | None = HfArg(
        default=None, help="Analysis of an early checkpoint whose low-utility parameters are frozen."
    )
    freeze_below: float | None = HfArg(
        default=None, help="Utility below which freeze_like freezes a parameter. Default 1."
    )
    monitor_every: int | None = HfArg(
        default=None, help="Number of steps between measurements of the weight update, in updates.jsonl."
    )
    monitor_matrices: int | None = HfArg(default=None, help="Number of weight matrices to measure.")

    def __post_init__(self) -> None:
        """Read `extrapolation`, and check what can be checked without loading anything.

        Raises:
            ConfigurationError: Settings are unknown or contradict one another.
        """
        if isinstance(self.reward, str):
            self.reward = [self.reward]
        if isinstance(self.freeze, str):
            self.freeze = [self.freeze]
        if isinstance(self.extrapolation, str):
            try:
                self.extrapolation = json.loads(self.extrapolation)
            except json.JSONDecodeError as error:
                raise ConfigurationError(
                    f"extrapolation={self.extrapolation!r} is not JSON ({error}). "
                    "Write it like '{\"num_prompts\": 32}'."
                ) from error
        settings = self.extrapolation_config()
        if settings and settings.validator == "reward" and settings.scales and not self.reward:
            raise ConfigurationError(
                f"acceleration={self.acceleration!r} validates by reward, and no reward is set. Set reward "
                '(world, math, code or package.module:function) or extrapolation={"validator": "teacher_kl"}.'
            )
        if self.evaluation_dataset_name and not self.reward:
            raise ConfigurationError("evaluation_dataset_name is set, but no reward to score its answers by; set one.")
        for name in ("target_accuracy", "stop_without_improvement"):
            if getattr(self, name) is not None and not self.evaluation_dataset_name:
                raise ConfigurationError(f"{name} needs evaluation_dataset_name to measure the accuracy on.")
        most = len(self.reward) if set(self.reward) <= {"world", "math", "code"} else math.inf
        if self.target_accuracy is not None and not 0 < self.target_accuracy <= most:
            bounds = f"above 0 and at most {most}. For 95 %, write 0.95." if most < math.inf else "above 0."
            raise ConfigurationError(f"target_accuracy: got {self.target_accuracy!r}, expected a number {bounds}")
        if self.freeze_below is not None:
            check_number("freeze_below", self.freeze_below, above=0)
            if self.freeze_like is None:
                raise ConfigurationError(f"freeze_below={self.freeze_below} has no effect; set freeze_like too.")
        if self.monitor_matrices is not None and self.monitor_every is None:
            raise ConfigurationError(f"monitor_matrices={self.monitor_matrices} has no effect; set monitor_every too.")
        for name, otherwise in (
            ("stop_without_improvement", "no early stop"),
            ("monitor_every", "none"),
            ("monitor_matrices", "none"),
            ("num_train_examples", "all"),
            ("num_evaluation_examples", "all"),
        ):
            if (value := getattr(self, name)) is not None:
                check_number(name, value, low=1, remedy=f"Leave it out for {otherwise}.")

    def extrapolation_config(self) -> ExtrapolationConfig | None:
        """Return the settings of EffOPD, or None for vanilla OPD.

        Raises:
            ConfigurationError: A setting is unknown, or has no effect.
        """
        overrides = self.extrapolation or {}
        if not isinstance(overrides, dict):
            raise ConfigurationError(f"extrapolation={overrides!r}: expected settings by name, as {{num_prompts: 32}}.")
        if self.acceleration == "none":
            if self.validation_dataset_name:
                raise ConfigurationError(
                    "acceleration is 'none', so validation_dataset_name has no effect; leave it out."
                )
            if overrides:
                raise ConfigurationError(
                    f"acceleration is 'none', so extrapolation={overrides} has no effect. Choose a preset of "
                    f"{list(PRESETS)}, or leave extrapolation out."
                )
            return None
        check_choice("acceleration", self.acceleration, ["none", *PRESETS])
        return resolve_preset(self.acceleration, **overrides)
