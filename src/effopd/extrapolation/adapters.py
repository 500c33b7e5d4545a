"""Which LoRA adapters can be extrapolated, and which of their parameters are the two factors of one product."""

import re
import warnings
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from accelerate.utils import DistributedType

from effopd.errors import ConfigurationError, UnsupportedError, listing
from effopd.parameters import clean_name

_FACTOR = re.compile(r"(.+)\.lora_([AB])\.([^.]+)\.weight")


class Pair(NamedTuple):
    """The two factors of a module's update `scaling * B @ A`.

    Attributes:
        a: Name of the parameter A, [r, in].
        b: Name of the parameter B, [out, r].
        scaling: Factor of the product: alpha / r, or alpha / sqrt(r) for rank-stabilised LoRA.
    """

    a: str
    b: str
    scaling: float


def find_pairs(model: torch.nn.Module, names: Collection[str]) -> dict[str, Pair]:
    """Find the pairs of LoRA factors among the selected parameters, by the clean name of their module.

    A factor whose partner is frozen is no pair: the product is linear in it, and it is extrapolated like any parameter.

    Raises:
        ConfigurationError: Of two factors that train, only one is selected.
    """
    modules = {clean_name(name): module for name, module in model.named_modules()}
    trainable = {clean_name(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
    pairs, lone = {}, []
    for name in names:
        if not (match := _FACTOR.fullmatch(name)):
            continue
        module, factor, adapter = match.groups()
        partner = f"{module}.lora_{'B' if factor == 'A' else 'A'}.{adapter}.weight"
        if partner not in names:
            lone += [name] if partner in trainable else []
        elif factor == "A":
            scaling: Any = modules[module].scaling
            pairs[module] = Pair(name, partner, float(scaling[adapter]))
    if lone:
        raise ConfigurationError(
            f"parameters selects one of the two LoRA factors of {len(lone)} modules: {listing(lone)}. What is "
            "extrapolated is their product, so select both, or freeze the other."
        )
    return pairs


def check_adapter(trainer: Any) -> None:
    """Refuse adapters of which `scaling * B @ A` is not the whole update, and settings in which it is not what trains.

    Warns:
        UserWarning: vLLM gets the weights by merging into a half-precision base, which rounds it each time.

    Raises:
        UnsupportedError: The adapter is not a plain LoRA of linear layers, there are several, the model is sharded, or
            a quantized base is sampled from with vLLM.
    """
    model = trainer.model
    active = list(model.active_adapters)
    others = {name for name, parameter in _adapter_parameters(model) if parameter.requires_grad} - set(active)
    if len(active) != 1 or others:
        raise UnsupportedError(
            f"The model has several LoRA adapters in use (active: {active}, trained beside them: {sorted(others)}). "
            "One can be extrapolated: activate and train just one; frozen ones that are not active may stay."
        )
    if kind := _unsupported(model, active[0]):
        raise UnsupportedError(
            f"The adapter has {kind}. Only plain LoRA of linear layers can be extrapolated, whose update is "
            "scaling * B @ A. Use that, or train without acceleration."
        )
    if (kind := trainer.accelerator.distributed_type) in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise UnsupportedError(
            f"The adapter is sharded by {kind.value}, and truncating a product to its rank needs whole factors. Use "
            "DDP, or train all parameters."
        )
    if getattr(trainer.args, "use_vllm", False):
        if _is_quantized(model.get_base_model()):
            raise UnsupportedError(
                "The base model is quantized, and TRL merges the adapter into it for vLLM, which rounds candidates to "
                "the quantized grid: those judged would not be those kept. Leave out use_vllm, or load the base "
                "unquantized."
            )
        if any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters() if not p.requires_grad):
            warnings.warn(
                "TRL merges the adapter into the half-precision base for vLLM and takes it out again, which rounds the "
                "base each time the weights are sent, and every candidate is sent. Load the base in float32 to avoid "
                "that.",
                stacklevel=3,
            )


def _is_quantized(base: torch.nn.Module) -> bool:
    """Whether transformers has loaded a model quantized, or some of its weights are stored as integers."""
    loaded = getattr(base, "hf_quantizer", None) is not None
    return loaded or not all(parameter.is_floating_point() for parameter in base.parameters())


def _adapter_parameters(model: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Yield the parameters of LoRA adapters, each with the name of its adapter."""
    for name, parameter in model.named_parameters():
        if match := re.search(r"\.lora_\w+\.([^.]+)", name):
            yield match[1], parameter


def _unsupported(model: Any, adapter: str) -> str | None:
    """Say what in an adapter is no plain LoRA of a linear layer; None if nothing is."""
    if model.peft_config[adapter].peft_type != "LORA":
        return f"the type {model.peft_config[adapter].peft_type.value}"
    for name, module in model.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        if variant := getattr(module, "lora_variant", {}).get(adapter):
            return f"a variant of LoRA, {type(variant).__name__}, at {name}"
        if adapter in module.lora_embedding_A:
            return f"factors of an embedding, {name}"
        if hasattr(module, "parameter_name"):
            return f"factors of a stack of experts (target_parameters), {name}"
        if adapter in module.lora_A and module.lora_A[adapter].weight.ndim != 2:
            return f"factors of a convolution, {name}"
    return None
