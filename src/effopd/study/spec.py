"""A study of one's own models: the specification of a sweep, of which some fields may be left out, and three more.

roles: {opd: mine, rl: baseline}    # which run plays which role; by default, names of runs are taken for roles
target: 0.8                         # accuracy up to which costs of runs by `effopd train` are counted
linearized: runs/linearized         # what `effopd linearize` wrote about the base and the teacher
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effopd.checks import check_choice, check_number, check_text
from effopd.errors import ConfigurationError
from effopd.files import read_yaml
from effopd.study import boundary
from effopd.study.claims import CLAIMS
from effopd.study.records import SWEEPS
from effopd.sweeps import SweepSpec, make_spec, prepare, run_places

ROLES = tuple(dict.fromkeys((*(need.role for claim in CLAIMS for need in claim.needs), *boundary.ROLES)))
_SAME = {"grpo": "rl"}
"""Names of runs that are taken for another role."""


@dataclass(frozen=True)
class OwnModels:
    """A user's models.

    Attributes:
        sweep: Specification of the sweep, with the base and the runs.
        roles: Name of the run by role.
        target: Accuracy up to which costs are counted, in (0, 1]; None counts none.
        linearized: Directory that `effopd linearize` wrote about the base and the teacher; None if there is none.
        name: Name of the whole in the report.
    """

    sweep: SweepSpec
    roles: Mapping[str, str]
    target: float | None
    linearized: str | None
    name: str

    def check(self) -> None:
        """Check that base, runs, teacher and tasks are there and go together, so that a slip costs no new `out`.

        Raises:
            ConfigurationError: They do not go together.
            DataError: A model or task is not there, or cannot be read.
        """
        prepare(self.sweep)

    def places(self) -> dict[tuple[str, int], str | list[str]]:
        """Return what `effopd.checkpoints.find_checkpoints` takes of every run, by role and number of the seed."""
        found, runs = run_places(self.sweep), self.sweep.runs
        return {
            (role, number): found[run if len(runs[run].seeds) == 1 else f"{run}-{number}"]
            for role, run in self.roles.items()
            for number in range(len(runs[run].seeds))
        }


def read_own_models(path: str | Path) -> OwnModels:
    """Read the specification of a study of one's own models.

    Args:
        path: YAML file: the specification of a sweep (docs/sweeps.md), in which `sweeps` are by default all that claims
            need, with `roles`, `target` and `linearized` beside it.

    Raises:
        ConfigurationError: It cannot be read, a field is unknown, missing or wrong, or no run has a role.
    """
    path = Path(path)
    if not path.exists():
        raise ConfigurationError(
            f"There is no file {str(path)!r}. Give the specification of a study of your own models."
        )
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must map fields to values, got {type(content).__name__}.")
    roles, target, linearized = (content.pop(name, None) for name in ("roles", "target", "linearized"))
    try:
        named = _roles(roles, content.get("runs"))
        default: list[Any] = [{"preset": sweep} for sweep in SWEEPS]
        if "opd" in named:
            default[SWEEPS.index("top_bottom")]["norm_like"] = named["opd"]
        sweep = make_spec({"sweeps": default, **content})
        if target is not None:
            check_number("target", target, above=0, high=1)
        if linearized is not None:
            check_text("linearized", linearized)
            if not (Path(linearized) / "linearized.json").exists():
                raise ConfigurationError(
                    f"linearized: {linearized} has no linearized.json. Name a directory that `effopd linearize` wrote."
                )
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    return OwnModels(sweep, named, target, linearized, path.stem)


def _roles(roles: Any, runs: Any) -> dict[str, str]:
    """Find out which run plays which role."""
    if not isinstance(runs, dict) or not runs:
        raise ConfigurationError(f"runs: got {runs!r}, expected {{name: directory}}.")
    if roles is None:
        found: dict[str, str] = {}
        for run in map(str, runs):
            role = _SAME.get(run.lower(), run.lower())
            if role in found:
                raise ConfigurationError(
                    f"The runs {found[role]} and {run} have both the role {role}. Say which is meant: roles: {{{role}: "
                    f"{run}}}."
                )
            if role in ROLES:
                found[role] = run
        if not found:
            raise ConfigurationError(
                f"No run has a role: got runs named {', '.join(map(str, runs))}. Name them opd, rl and so on, or say "
                f"which is which: roles: {{opd: {next(iter(runs))}}}. The roles are {', '.join(ROLES)}."
            )
        return found
    if not isinstance(roles, dict) or not roles:
        raise ConfigurationError(f"roles: got {roles!r}, expected {{role: name of a run}}.")
    named = {str(role): str(run) for role, run in roles.items()}
    for role, run in named.items():
        check_choice("roles", role, ROLES)
        check_choice(f"roles: {role}", run, [str(name) for name in runs])
        if len(others := [each for each, other in named.items() if other == run]) > 1:
            raise ConfigurationError(
                f"roles: {' and '.join(others)} are the same run, {run}; expected another run for each. Leave one out."
            )
    return named
