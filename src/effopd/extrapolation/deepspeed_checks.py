"""Which settings of DeepSpeed extrapolation is right with; the others are refused by name."""

from importlib.metadata import version
from typing import Any

from effopd.errors import UnsupportedError

VERSION = "0.19"
"""Version of DeepSpeed whose names `effopd.extrapolation.zero_snapshot` knows."""


def check_deepspeed(accelerator: Any) -> None:
    """Refuse settings of DeepSpeed with which weights cannot be extrapolated, or for which this is not tested.

    Args:
        accelerator: Accelerator of a trainer that uses DeepSpeed.

    Raises:
        UnsupportedError: There is such a setting, or another version of DeepSpeed is installed.
    """
    installed = version("deepspeed")
    if not installed.startswith(f"{VERSION}."):
        raise UnsupportedError(
            f"DeepSpeed {installed} is installed, and the weights that it trains are not part of its public interface. "
            f"Extrapolation knows them in version {VERSION}: pip install 'effopd[deepspeed]'."
        )
    config = accelerator.state.deepspeed_plugin.deepspeed_config
    if reason := _reason(config, accelerator.mixed_precision):
        raise UnsupportedError(f"DeepSpeed: {reason}, or train without acceleration.")


def _reason(config: dict[str, Any], mixed_precision: str) -> str | None:
    """Say which setting is refused, why, and what to do; None if none is."""
    zero = config.get("zero_optimization") or {}
    stage = zero.get("stage", 0)
    devices = {name: (zero.get(name) or {}).get("device") or "none" for name in ("offload_optimizer", "offload_param")}
    if mixed_precision == "fp16" or _is_on(config, "fp16"):
        return (
            "fp16 multiplies the loss by a scale and skips steps, by which candidates would be judged. Set bf16 instead"
        )
    if stage == 0 and (mixed_precision == "bf16" or _is_on(config, "bf16")):
        return "stage 0 has no float32 masters of bf16 weights. Set stage to 1, which costs nothing more"
    if zero.get("round_robin_gradients") and stage < 3:
        return (
            "with round_robin_gradients, DeepSpeed's own table of which masters belong to which parameter is wrong. "
            "Leave it out"
        )
    if devices["offload_optimizer"] == "nvme":
        return "offload_optimizer to nvme keeps the masters in files. Set its device to cpu"
    if devices["offload_param"] != "none":
        return (
            f"offload_param to {devices['offload_param']} keeps the model's weights where candidates do not come. "
            "Leave it out; offload_optimizer to cpu is supported"
        )
    if untested := _untested(config, zero):
        return f"{', '.join(untested)} was not tested with extrapolation. Leave it out"
    return None


def _is_on(config: dict[str, Any], name: str) -> bool:
    return bool((config.get(name) or {}).get("enabled", False))


def _untested(config: dict[str, Any], zero: dict[str, Any]) -> list[str]:
    """List settings that change what the masters are, or how they are sharded, in ways that no test has."""
    found = {
        "zenflow": zero.get("zenflow"),
        "mics_shard_size": zero.get("mics_shard_size", -1) > 0,
        "zero_hpz_partition_size": zero.get("zero_hpz_partition_size", 1) > 1,
        "zero_quantized_weights": zero.get("zero_quantized_weights"),
        "offload_optimizer.ratio": (zero.get("offload_optimizer") or {}).get("ratio", 1) != 1,
        "bf16_master_weights_and_grads": (config.get("bf16") or {}).get("bf16_master_weights_and_grads"),
        "tensor_parallel": (config.get("tensor_parallel") or {}).get("autotp_size", 0) > 1,
        "expert_parallel": _is_on(config, "expert_parallel"),
        "sequence_parallel_size": config.get("sequence_parallel_size", 1) > 1,
    }
    return [name for name, is_set in found.items() if is_set]
