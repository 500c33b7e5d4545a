"""Which weights embedding replacement takes from the base (arXiv 2605.11739, replacement of the embeddings)."""

from collections.abc import Collection

from effopd.parameters import locate


def is_embedding(name: str, tied_heads: Collection[str] = ()) -> bool:
    """Whether a weight is an embedding: of tokens or learned positions, or an output head tied to one.

    Args:
        name: A parameter's name.
        tied_heads: Output heads that are their embedding, though they are stored by a name of their own.
    """
    return locate(name).kind == "embedding" or name in tied_heads
