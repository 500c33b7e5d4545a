"""The exceptions this package raises on purpose.

Every one derives from `EffOPDError` and from the standard exception it specialises, so that callers may catch
either. A message says what was got, what was expected and what to do. Add a leaf only where a caller would want
to catch it apart from its siblings.
"""

from collections.abc import Sequence
from typing import Any


class EffOPDError(Exception):
    """Base of every error that effopd raises on purpose."""


class ConfigurationError(EffOPDError, ValueError):
    """A setting, or a combination of settings, that cannot work. Raised before training starts."""


class DataError(EffOPDError, ValueError):
    """A dataset, file or model directory that does not hold what was expected of it."""


class CheckpointError(EffOPDError, RuntimeError):
    """A saved state that cannot be continued from."""


class UnsupportedError(EffOPDError, NotImplementedError):
    """A combination of features that is refused because its result would be wrong."""


class MissingPackageError(EffOPDError, ModuleNotFoundError):
    """A package is not installed that only a part of effopd needs."""


class ServerError(EffOPDError, ConnectionError):
    """A server that training needs, such as vLLM's, and that does not answer any more."""


class DivergedError(EffOPDError, ArithmeticError):
    """Weights whose logits are not finite, so that nothing can be sampled from them.

    Attributes:
        rollouts: Number of completions that had been sampled before.
        tokens: Number of tokens in them.
    """

    rollouts = 0
    tokens = 0


def listing(items: Sequence[str], limit: int = 10) -> str:
    """List the first of many names in a message, and say how many more there are."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def shown(value: Any) -> str:
    """Write a value for a message, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
