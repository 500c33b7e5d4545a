"""What the name of a parameter tells: where the parameter sits in a transformer, and whether a selection means it.

Nothing else in the package reads meaning out of parameter names:

    >>> locate("model.layers.3.self_attn.q_proj.weight")
    Location(layer=3, module='self_attn.q_proj', kind='attention')
    >>> select(["model.layers.0.mlp.up_proj.weight", "lm_head.weight"], "attention_and_mlp")
    ['model.layers.0.mlp.up_proj.weight']
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Literal, NamedTuple, TypeVar

from effopd.errors import ConfigurationError

Value = TypeVar("Value")
ModuleKind = Literal["attention", "mlp", "embedding", "lm_head", "norm", "other"]

OTHER: ModuleKind = "other"

# What wrappers (DDP, torch.compile, activation checkpointing, FSDP1) add to a parameter's name.
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:module|_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks|block|layer)\.(\d+)\.(.+)$")
# Stacks of layers beside the language model's own; their layers are numbered from 0 too.
_TOWER = re.compile(r"(?:^|\.)((?:visual|vision|image|audio|speech)\w*)\.")
_ROLE = re.compile(r"\.(?:weight|bias|weight_scale|weight_scale_inv)$")

# The first pattern that matches counts, so the most specific come first: q_norm inside self_attn is a norm, and attn
# inside norm_attn_norm is not. The projection of an image's patches is no table of embeddings.
_KINDS: tuple[tuple[ModuleKind, re.Pattern[str]], ...] = (
    ("norm", re.compile(r"(?i)norm[^.]*(?:\.norms\.\d+)?$|(?:^|\.)ln_\w+$|(?:^|\.)ln\d?$")),
    (
        "lm_head",
        re.compile(
            r"(?:^|\.)(?:lm_head|embed_out|output_projection)$|^output$|transformer\.output_layer$|shared_head\.head$"
        ),
    ),
    ("embedding", re.compile(r"^(?!.*patch_embed).*embed|(?:^|\.)(?:wte|wpe)$")),
    ("attention", re.compile(r"attn|attention")),
    ("mlp", re.compile(r"mlp|feed_forward|ffn|experts|block_sparse_moe|shared_expert|(?:^|\.)fc[12]$")),
)


class Location(NamedTuple):
    """Place of a parameter in a transformer.

    Attributes:
        layer: Index of the transformer layer, from 0; None for a parameter outside the stack of layers.
        module: Path of the module inside its layer (`self_attn.q_proj`), or inside the model if it is in no layer. The
            name of a separate stack, such as a vision tower, comes before it (`visual.attn.qkv`).
        kind: Role of the module; `other` if the name is not known, so that callers can report it.
    """

    layer: int | None
    module: str
    kind: ModuleKind


def clean_name(name: str) -> str:
    """Remove from a parameter's name what DDP, FSDP, torch.compile or activation checkpointing added to it."""
    return _WRAPPERS.sub("", name)


def by_clean_name(named: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Make a dictionary by clean names.

    Raises:
        ConfigurationError: Two names are the same once they are clean.
    """
    named = list(named)
    counts = Counter(clean_name(name) for name, _ in named)
    if same := [name for name, _ in named if counts[clean_name(name)] > 1]:
        raise ConfigurationError(
            f"The parameters {' and '.join(same)} cannot be told apart once what wrappers add to names is removed. "
            "Call that part of the model otherwise than 'module'."
        )
    return {clean_name(name): value for name, value in named}


def locate(name: str) -> Location:
    """Read from a parameter's name, wrapped or plain, where the parameter sits."""
    module = _ROLE.sub("", clean_name(name))
    layer: int | None = None
    if match := _LAYER.search(module):
        tower = _TOWER.search(module[: match.start(1)])
        layer, module = int(match[1]), f"{tower[1]}.{match[2]}" if tower else match[2]
    return Location(layer, module, next((kind for kind, pattern in _KINDS if pattern.search(module)), OTHER))


def select(names: Iterable[str], selection: str = "all") -> list[str]:
    """Choose parameters by name, keeping their order.

    Args:
        names: Parameter names, wrapped or plain.
        selection: `all` parameters; `attention_and_mlp` for those of attention and MLP modules, with their biases and
            without norms; or a regular expression that is searched for in the plain name, for instance
            `layers\\.(0|1)\\.` or `attn|attention|mlp`.

    Raises:
        ConfigurationError: The regular expression is not valid, or it matches no name.
    """
    names = list(names)
    if selection == "all":
        chosen = names
    elif selection == "attention_and_mlp":
        chosen = [name for name in names if locate(name).kind in ("attention", "mlp")]
    else:
        try:
            pattern = re.compile(selection)
        except re.error as error:
            raise ConfigurationError(
                f"The parameter selection {selection!r} is not a regular expression ({error}). "
                "Use 'all', 'attention_and_mlp' or a valid pattern."
            ) from error
        chosen = [name for name in names if pattern.search(clean_name(name))]
    if not chosen:
        shown = ", ".join(names[:3]) or "none at all"
        raise ConfigurationError(
            f"The parameter selection {selection!r} matches none of the {len(names)} trainable parameters "
            f"(the first are: {shown}). Use 'all', 'attention_and_mlp' or a pattern found in these names."
        )
    return chosen
