"""The fields of interventions: what the command line says about them, and what several of them share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from effopd.errors import ConfigurationError
from effopd.interventions.update import Update

Other = Literal["base", "trained"]
"""What the tensors are that an intervention is not about: those of the base, or those of the trained model."""


def option(text: str, metavar: str) -> dict[str, str]:
    """Make the metadata of a field, from which the command line makes an option.

    Args:
        text: Help for the option. `%(default)s` stands for the field's default.
        metavar: Word that stands for the value in the help.
    """
    return {"help": text, "metavar": metavar}


def update_of_other(update: Update, other: Other) -> Update:
    """Keep or drop the update of a tensor that an intervention is not about."""
    return update if other == "trained" else update.times(0.0)


def check_reference(field: str, value: Any) -> None:
    """Raise ConfigurationError unless a field can name a model, or holds the norms of a model's update."""
    if not value or not isinstance(value, (str, Path, Mapping)):
        raise ConfigurationError(
            f"{field}: got {value!r}, expected a model directory or hub name, or norms from update_norms()."
        )
