"""The parameters of a model in memory, by the names and in the matrices that its files have.

In memory, transformers gives some parameters other names than in files (`embed_out` of GPT-NeoX), and fuses many
experts into one parameter (Mixtral, Qwen3-MoE, DeepSeek-V3). Interventions act on what is stored in files, in memory
as well as on disk.
"""

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from effopd.errors import UnsupportedError, listing
from effopd.parameters import by_clean_name


class _View(Tensor):
    """A tensor that stays a view where transformers, which splits parameters to save them, would copy it."""

    @override
    def contiguous(self, *args: Any, **kwargs: Any) -> Tensor:
        return self


def plain_parameters(model: nn.Module) -> dict[str, Tensor]:
    """List the parameters of a model by the names that they have in memory, without what wrappers add to the names."""
    return by_clean_name((name, parameter.detach()) for name, parameter in model.named_parameters())


def stored_parameters(model: nn.Module) -> dict[str, Tensor]:
    """List the parameters of a model by the names that they are stored under.

    Args:
        model: A model of transformers, which may be wrapped. The parameters of any other model keep their names.

    Returns:
        Views of the parameters: writing to one changes the model.

    Raises:
        UnsupportedError: A parameter is not stored as it is, nor in parts, but in another form.
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
