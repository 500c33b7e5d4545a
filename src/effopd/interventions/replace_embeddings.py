"""Replacement of the trained embeddings by those of the base (arXiv 2605.11739)."""

from collections.abc import Collection
from dataclasses import dataclass

from typing_extensions import override

from effopd.errors import ConfigurationError
from effopd.interventions.registry import register
from effopd.interventions.update import Intervention, Shapes, Update
from effopd.parameters import locate


def is_embedding(name: str, tied_heads: Collection[str] = ()) -> bool:
    """Tell whether a weight is an embedding: of tokens, of learned positions, or an output head tied to one.

    Args:
        name: A parameter's name.
        tied_heads: Names of output heads that are tied to the embedding, although they are stored separately.
    """
    return locate(name).kind == "embedding" or name in tied_heads


@register("replace-embeddings", "trained, with the base's embeddings")
@dataclass(frozen=True)
class ReplaceEmbeddings(Intervention):
    """The trained model with the base's embeddings, and with the base's output head where it is tied to them."""

    @override
    def check(self, shapes: Shapes) -> None:
        if not any(is_embedding(name) for name in shapes):
            raise ConfigurationError(
                f"replace-embeddings: none of the {len(shapes)} tensors is an embedding by its name (the first are "
                f"{', '.join(list(shapes)[:3])}). Expected a name with 'embed', 'wte' or 'wpe'."
            )

    @override
    def apply(self, update: Update) -> Update:
        weight = update.weight
        return update.times(0.0) if is_embedding(weight.name, weight.source.tied_heads) else update
