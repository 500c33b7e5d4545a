"""A model in memory by the names and matrices that its files have.

transformers holds some parameters under other names than they are stored by (`embed_out` of GPT-NeoX), and many experts
fused in one (Mixtral, Qwen3-MoE, DeepSeek-V3). Interventions are about the stored ones, in memory as on disk.
"""

from typing import Any

import torch
from torch import Tensor, nn

from effopd.errors import UnsupportedError, listing
from effopd.parameters import clean_name


class _View(Tensor):
    """Stays a view where transformers, which splits parameters in order to save them, would copy."""

    def contiguous(self, *args: Any, **kwargs: Any) -> Tensor:
        return self


def plain_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model by the names that they have in memory, without what wrappers add."""
    return {clean_name(name): parameter.detach() for name, parameter in model.named_parameters()}


def stored_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model by the names that they are stored under, each a view: what is written to it is the
    model's.

    Args:
        model: A model of transformers; of any other, the parameters are given as they are. It may be wrapped.

    Raises:
        UnsupportedError: A parameter is stored in another form than as parts of it.
    """
    from transformers import PreTrainedModel
    from transformers.core_model_loading import revert_weight_conversion

    parameters = plain_parameters(model)
    inner = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    if inner is None:
        return parameters
    memory = {tensor.untyped_storage().data_ptr() for tensor in parameters.values()}
    views = {name: tensor.as_subclass(_View) for name, tensor in parameters.items()}
    stored = {name: tensor.as_subclass(Tensor) for name, tensor in revert_weight_conversion(inner, views).items()}
    copied = [name for name, tensor in stored.items() if tensor.untyped_storage().data_ptr() not in memory]
    if copied or sum(map(torch.numel, stored.values())) != sum(map(torch.numel, parameters.values())):
        raise UnsupportedError(
            f"{type(inner).__name__} holds {len(copied)} parameters in another form than they are stored in "
            f"({listing(copied, 3)}), and cannot be changed in memory. Use `effopd intervene`, which works on disk."
        )
    return stored
