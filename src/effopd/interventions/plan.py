"""Plans: interventions in a YAML file, by name and fields.

    - norm-match: {final: runs/opd/final, beta: 1}
    - window: {module: mlp, centre: 12}
    - replace-embeddings

The first entry is applied first. Paths are relative to the directory in which the command runs.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from effopd.errors import ConfigurationError
from effopd.files import read_yaml
from effopd.interventions.registry import KINDS, make_intervention
from effopd.interventions.update import Intervention


def read_plan(path: str | Path) -> list[Intervention]:
    """Read the interventions of a YAML file, in the order in which they are applied.

    Args:
        path: The file.

    Raises:
        ConfigurationError: The file cannot be read, is not YAML or holds no list, or an entry is wrong.
    """
    entries = read_yaml(Path(path))
    if not isinstance(entries, list) or not entries:
        raise ConfigurationError(f"{path} holds {_shown(entries)}; expected a list such as `- scale: {{alpha: 0.5}}`.")
    interventions = []
    for number, entry in enumerate(entries, start=1):
        try:
            interventions.append(_from_entry(entry))
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}, entry {number}: {error}") from error
    return interventions


def describe(intervention: Intervention) -> dict[str, Any]:
    """Describe an intervention as an entry of a plan. Norms that were given as numbers are only mentioned."""
    kind = next((kind for kind, made in KINDS.items() if type(intervention) is made), None)
    if kind is None or not dataclasses.is_dataclass(intervention):
        return {type(intervention).__name__: {}}
    fields = {field.name: getattr(intervention, field.name) for field in dataclasses.fields(intervention)}
    return {kind: {name: _plain(value) for name, value in fields.items()}}


def _from_entry(entry: Any) -> Intervention:
    if isinstance(entry, str):
        return make_intervention(entry, {})
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigurationError(f"got {_shown(entry)}; expected one kind with its fields, `kind: {{field: value}}`.")
    ((kind, fields),) = entry.items()
    if fields is not None and not isinstance(fields, dict):
        raise ConfigurationError(f"{kind}: got {_shown(fields)}; expected its fields, {{field: value}}.")
    return make_intervention(kind, fields or {})


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return f"norms of {len(value)} weights, given as numbers"
    return str(value) if isinstance(value, Path) else value


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)
