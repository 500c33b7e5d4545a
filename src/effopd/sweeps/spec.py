"""The specification of a sweep. It is read from YAML, and checked before any model is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import yaml

from effopd.checks import (
    check_choice,
    check_fields,
    check_file_name,
    check_list,
    check_number,
    check_text,
    check_whole,
)
from effopd.errors import ConfigurationError
from effopd.files import load_yaml
from effopd.interventions.realised import Dtype
from effopd.sweeps.presets import LONGEST_NAME, PRESETS, Preset

Seed = str | tuple[str, ...]
"""A directory of checkpoints, a model, or the models of one run in the order of training."""

QUICK_LIMIT, QUICK_CHECKPOINTS, QUICK_VALUES = 200, 4, 5


@dataclass(frozen=True)
class RunSpec:
    """The runs of one method.

    Attributes:
        seeds: For each seed of training, what `effopd.checkpoints.find_checkpoints` takes.
    """

    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class SweepSpec:
    """What a sweep evaluates: runs x interventions x values x tasks x seeds.

    Attributes:
        base: Directory or hub name of the model that all runs started from; `world:base` is that of the embedded world.
        runs: Runs by name of the method.
        sweeps: Sweeps, each of which says what models are made of a run.
        tasks: Names of tasks, as `effopd.evaluation.load_task` takes them.
        seeds: Random seeds for sampling, at least 0. Every model is evaluated with each of them, on the same problems.
        teacher: Directory or hub name of a model with the runs' tokenizer, to which `norm_matching` measures the KL
            divergence; `world:teacher` is that of the embedded world. None measures none.
        root: Directory that relative paths of runs start from; by default the current one.
        limit: Number of problems per task, at least 1, the same problems for every cell; None for all.
        num_samples: Number of completions per problem, at least 1.
        temperature: Sampling temperature, at least 0.
        batch_size: Number of completions that are sampled at a time, at least 1.
        dtype: `float32`, or `stored` for the dtype of the checkpoints' files: what holds the models while they are
            evaluated, and what they compute in. A bf16 checkpoint's update is mostly lost in bf16 once it is changed.
        max_checkpoints: Largest number of checkpoints, evenly spaced, that a sweep over training takes; None for all.
        max_values: Largest number of values, evenly spaced, that a grid keeps; None for all.

    Raises:
        ConfigurationError: A value is wrong, a name is there twice, or a sweep names a run that is not there.
    """

    base: str
    runs: Mapping[str, RunSpec]
    sweeps: tuple[Preset, ...]
    tasks: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    teacher: str | None = None
    root: str | None = None
    limit: int | None = None
    num_samples: int = 1
    temperature: float = 1.0
    batch_size: int = 256
    dtype: Dtype = "float32"
    max_checkpoints: int | None = None
    max_values: int | None = None

    def __post_init__(self) -> None:
        for field in ("base", "teacher", "root"):
            if (value := getattr(self, field)) is not None or field == "base":
                check_text(field, value)
        for field in ("limit", "num_samples", "batch_size", "max_checkpoints", "max_values"):
            if (value := getattr(self, field)) is not None:
                check_whole(field, value, 1)
        check_number("temperature", self.temperature, low=0.0)
        check_choice("dtype", self.dtype, get_args(Dtype))
        for task in check_list("tasks", self.tasks):
            check_text("tasks", task)
        for seed in check_list("seeds", self.seeds):
            check_whole("seeds", seed, 0)
        if not self.runs:
            raise ConfigurationError("runs: got none, expected at least one, {name: directory}.")
        names = check_list("sweeps: names", [sweep.name for sweep in self.sweeps])
        for name, sweep in zip(names, self.sweeps, strict=True):
            for run in sweep.runs:
                check_choice(f"{name}: runs", run, self.runs)

    def quick(self) -> "SweepSpec":
        """Return this specification with fewer problems, seeds, checkpoints and values, but all its runs and sweeps."""
        return replace(
            self,
            limit=min(self.limit or QUICK_LIMIT, QUICK_LIMIT),
            seeds=self.seeds[:1],
            num_samples=1,
            max_checkpoints=min(self.max_checkpoints or QUICK_CHECKPOINTS, QUICK_CHECKPOINTS),
            max_values=min(self.max_values or QUICK_VALUES, QUICK_VALUES),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON can hold it, without `root`, which does not change what is evaluated."""
        plain = asdict(self) | {"sweeps": [{"preset": sweep.preset, **asdict(sweep)} for sweep in self.sweeps]}
        plain["runs"] = {name: run.seeds for name, run in self.runs.items()}
        plain.pop("root")
        return plain


def shipped_specs() -> list[str]:
    """List the names of the specifications that come with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in (files("effopd") / "sweeps" / "specs").iterdir())


def read_spec(spec: str | Path) -> SweepSpec:
    """Read a specification.

    Args:
        spec: Path of a YAML file, or the name of a specification that comes with the package.

    Raises:
        ConfigurationError: There is no such file, it is not YAML, or a field is unknown, missing or wrong.
    """
    path = Path(spec)
    if not path.is_file() and str(spec) in shipped_specs():  # a folder of that name may be there too
        path = Path(str(files("effopd") / "sweeps" / "specs" / f"{spec}.yaml"))
    if not path.is_file():
        shipped = ", ".join(shipped_specs())
        raise ConfigurationError(
            f"There is no file {str(spec)!r}, nor a shipped specification of that name ({shipped})."
        )
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} cannot be read as YAML: {error}") from error
    try:
        return make_spec(content)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def make_spec(content: Any) -> SweepSpec:
    """Make a specification from the contents of its YAML.

    Args:
        content: Mapping of the fields.

    Raises:
        ConfigurationError: A field is unknown, missing or wrong.
    """
    if not isinstance(content, dict):
        raise ConfigurationError(f"got {type(content).__name__}, expected fields, `base: ...`, `runs: ...` and so on.")
    check_fields("specification", content, SweepSpec)
    runs = content["runs"]
    if not isinstance(runs, dict):
        raise ConfigurationError(f"runs: got {runs!r}, expected {{name: directory}}.")
    lists = {field: check_list(field, content[field]) for field in ("tasks", "seeds", "sweeps") if field in content}
    made = {
        "runs": {str(name): _run(str(name), value) for name, value in runs.items()},
        "sweeps": tuple(_sweep(number, entry) for number, entry in enumerate(lists["sweeps"], start=1)),
    }
    return SweepSpec(**{**content, **lists, **made})


def _run(name: str, value: Any) -> RunSpec:
    where = f"runs: {name}"
    check_file_name("runs", name, LONGEST_NAME)
    if isinstance(value, str) and value:
        return RunSpec((value,))
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{where}: got {value!r}, expected a directory, or {{seeds: [DIR, DIR]}} for runs of the same method with "
            "several seeds. The models of one run that lie apart: {seeds: [[DIR, DIR]]}."
        )
    check_fields(where, value, RunSpec)
    seeds: list[Seed] = []
    for seed in check_list(f"{where}: seeds", value["seeds"]):
        models = check_list(f"{where}: seeds", seed) if isinstance(seed, list) else (seed,)
        for model in models:
            check_text(f"{where}: seeds", model)
        seeds.append(models if isinstance(seed, list) else seed)
    return RunSpec(tuple(seeds))


def _sweep(number: int, entry: Any) -> Preset:
    where = f"sweeps, entry {number}"
    if isinstance(entry, str):
        entry = {"preset": entry}
    if not isinstance(entry, dict) or "preset" not in entry:
        raise ConfigurationError(f"{where}: got {entry!r}, expected {{preset: NAME}}, one of {', '.join(PRESETS)}.")
    fields = {name: value for name, value in entry.items() if name != "preset"}
    check_choice(where, entry["preset"], PRESETS)
    preset = PRESETS[entry["preset"]]
    check_fields(f"{where}, {preset.preset}", fields, preset)
    try:
        return preset(**fields)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
