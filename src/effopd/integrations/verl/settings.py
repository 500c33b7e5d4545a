"""What verl's configuration says about extrapolation, and what does not go with it.

    +effopd.preset=reference '+effopd.scales=[2,4,6]' +effopd.num_prompts=100

The section `effopd` has the settings of `ExtrapolationConfig`, and `preset`, the name of those that it starts from.
"""

from collections.abc import Mapping
from typing import Any

from effopd.errors import ConfigurationError, UnsupportedError
from effopd.extrapolation import ExtrapolationConfig
from effopd.extrapolation.presets import resolve_preset

# How validation has to sample: from the whole distribution of the student (arXiv 2605.11739, EffOPD).
SAMPLING = {"temperature": 1, "top_p": 1, "top_k": -1}
# Settings that the trainer does not follow, with the only value that they may have.
FIXED = {"validator": "reward", "guide": "all", "random_numbers": "independent"}


def read_settings(section: Mapping[str, Any]) -> ExtrapolationConfig:
    """Read the section `effopd` of verl's configuration; an empty one means the paper's settings.

    Raises:
        ConfigurationError: A setting is not known, or a value cannot work.
        UnsupportedError: A setting is one that the trainer for verl does not follow.
    """
    overrides = dict(section)
    config = resolve_preset(overrides.pop("preset", "paper"), **overrides)
    if config.reset_optimizer:
        raise UnsupportedError("effopd.reset_optimizer=True: under verl, a jump leaves the optimizer's state.")
    for name, value in FIXED.items():
        if (got := getattr(config, name)) != value:
            raise UnsupportedError(
                f"effopd.{name}={got!r}: under verl it must be {value!r}. Use the preset 'paper' or 'reference'."
            )
    return config


def check_supported(config: Mapping[str, Any]) -> None:
    """Refuse what verl can be configured to do and extrapolation cannot, before any process starts.

    Args:
        config: The whole configuration of verl.

    Raises:
        ConfigurationError: verl would sample validation otherwise than at temperature 1.
        UnsupportedError: The weights are not plain parameters under FSDP2, or random numbers are shared.
    """
    parts = config["actor_rollout_ref"]
    if (strategy := parts["actor"]["strategy"]) != "fsdp2":
        raise UnsupportedError(
            f"actor_rollout_ref.actor.strategy={strategy!r}: extrapolation needs parameters that are sharded one by "
            "one. Set it to 'fsdp2'."
        )
    model = parts["model"]
    if model.get("lora_rank", 0) or model.get("lora_adapter_path") or (model.get("lora") or {}).get("rank", 0):
        raise UnsupportedError("LoRA under verl is not supported, since FSDP2 shards the factors. Train all weights.")
    if ((parts["actor"].get("fsdp_config") or {}).get("qat") or {}).get("enable"):
        raise UnsupportedError("Quantization-aware training is not supported: what is sampled from is not the weights.")
    if parts["rollout"].get("full_determinism"):
        raise UnsupportedError(
            "rollout.full_determinism gives every request the same random seed, so that the weights and their "
            "candidates would not be sampled independently. Leave it out."
        )
    sampling = parts["rollout"]["val_kwargs"]
    if wrong := {name: sampling.get(name) for name, value in SAMPLING.items() if sampling.get(name) != value}:
        raise ConfigurationError(
            f"actor_rollout_ref.rollout.val_kwargs has {wrong}, and validation of candidates samples by it. Set "
            + " ".join(f"actor_rollout_ref.rollout.val_kwargs.{name}={SAMPLING[name]}" for name in wrong)
            + ", which verl's own validation then uses as well."
        )
