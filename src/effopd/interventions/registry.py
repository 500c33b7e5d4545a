"""The interventions by the names that plans, sweeps and the command line use.

A file of this package that defines an intervention registers it; nothing else has to name it:

    @register("scale", "base + alpha times the update")
    @dataclass(frozen=True)
    class Scale(Intervention):
        alpha: float = field(metadata=option("factor of the update", "X"))
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from effopd.checks import check_choice, check_fields
from effopd.errors import ConfigurationError
from effopd.interventions.update import Intervention

KINDS: dict[str, Any] = {}
"""The class of each registered intervention, by name."""

SUMMARIES: dict[str, str] = {}
"""One line for the command line's help about each registered intervention, by name."""

AnyIntervention = TypeVar("AnyIntervention", bound=Intervention)


def register(name: str, summary: str) -> Callable[[type[AnyIntervention]], type[AnyIntervention]]:
    """Make an intervention known by a name. Use it as a decorator of the class.

    Args:
        name: Name in plans, sweeps and the command line; in lower case, with hyphens.
        summary: One line for the command line's help.

    Raises:
        ConfigurationError: The name is taken.
    """

    def add(kind: type[AnyIntervention]) -> type[AnyIntervention]:
        if name in KINDS:
            raise ConfigurationError(
                f"Got a second intervention named {name!r}, {kind.__qualname__}; the first is "
                f"{KINDS[name].__qualname__}. Choose another name."
            )
        KINDS[name], SUMMARIES[name] = kind, summary
        return kind

    return add


def make_intervention(kind: str, fields: Mapping[str, Any]) -> Intervention:
    """Make an intervention from its name and its fields.

    Args:
        kind: Name of a registered intervention.
        fields: Values by field name. Fields that have a default may be left out.

    Raises:
        ConfigurationError: There is no such kind or field, a field without a default is missing, or a value is wrong.
    """
    check_choice("intervention", kind, KINDS)
    check_fields(kind, fields, KINDS[kind])
    try:
        made: Intervention = KINDS[kind](**fields)
    except ConfigurationError as error:
        raise ConfigurationError(f"{kind}: {error}") from error
    return made
