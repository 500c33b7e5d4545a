"""The specification of a sweep: a YAML file, or a shipped one by its name, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from effopd.errors import ConfigurationError
from effopd.files import load_yaml
from effopd.sweeps.checks import check_choice, check_fields, check_name, check_number, check_text, check_whole, listed
from effopd.sweeps.presets import PRESETS, Preset

Seed = str | tuple[str, ...]
"""A directory of checkpoints or a model; or the models of one run, in the order of training."""

QUICK_LIMIT, QUICK_CHECKPOINTS, QUICK_VALUES = 200, 4, 5


@dataclass(frozen=True)
class RunSpec:
    """The runs of one method.

    Attributes:
        seeds: One run for each seed of training: what `effopd.checkpoints.find_checkpoints` takes.
    """

    seeds: tuple[Seed, ...]


@dataclass(frozen=True)
class SweepSpec:
    """Runs x interventions x values x tasks x seeds.

    Attributes:
        base: Directory or hub name of the model that all runs started from; `world:base` is the embedded world's.
        runs: By name of the method.
        sweeps: What is done with each run.
        tasks: `world`, a `.jsonl` file, or a benchmark's name: what `effopd.evaluation.load_task` takes.
        seeds: Of the sampling; each cell is evaluated with each, on the same problems.
        teacher: For the KL divergence in `norm_matching`; `world:teacher` is the embedded world's. None: no KL.
        root: Directory that the runs' relative paths start from; by default the current one.
        limit: Problems per task, the same for every cell; None for all that there are.
        num_samples: Completions per problem.
        temperature: Of the sampling, >= 0.
        batch_size: Completions sampled at a time.
        max_checkpoints: Checkpoints that sweeps over training take of a run, evenly spaced; None for all.
        max_values: Values that a grid keeps, evenly spaced; None for all.
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
    max_checkpoints: int | None = None
    max_values: int | None = None

    def __post_init__(self) -> None:
        """Check what can be checked without opening a model.

        Raises:
            ConfigurationError: A value is wrong, a name is there twice or names no run.
        """
        for field in ("base", "teacher", "root"):
            if (value := getattr(self, field)) is not None or field == "base":
                check_text(field, value)
        for field in ("limit", "num_samples", "batch_size", "max_checkpoints", "max_values"):
            if (value := getattr(self, field)) is not None:
                check_whole(field, value, 1)
        check_number("temperature", self.temperature, low=0.0)
        for task in listed("tasks", self.tasks):
            check_text("tasks", task)
        for seed in listed("seeds", self.seeds):
            check_whole("seeds", seed, 0)
        if not self.runs:
            raise ConfigurationError("runs: got none; expected at least one, {name: directory}.")
        names = listed("sweeps: names", [sweep.name for sweep in self.sweeps])
        for name, sweep in zip(names, self.sweeps, strict=True):
            for run in sweep.runs:
                check_choice(f"{name}: runs", run, self.runs)

    def quick(self) -> "SweepSpec":
        """The same with fewer problems, sampling seeds, checkpoints and values; every run and every sweep is kept."""
        return replace(
            self,
            limit=min(self.limit or QUICK_LIMIT, QUICK_LIMIT),
            seeds=self.seeds[:1],
            num_samples=1,
            max_checkpoints=min(self.max_checkpoints or QUICK_CHECKPOINTS, QUICK_CHECKPOINTS),
            max_values=min(self.max_values or QUICK_VALUES, QUICK_VALUES),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values, presets by name and fields; without `root`, which says only where things lay."""
        plain = asdict(self) | {"sweeps": [{"preset": sweep.preset, **asdict(sweep)} for sweep in self.sweeps]}
        plain["runs"] = {name: run.seeds for name, run in self.runs.items()}
        plain.pop("root")
        return plain


def shipped_specs() -> list[str]:
    """Names of the specifications that ship with the package."""
    return sorted(path.name.removesuffix(".yaml") for path in (files("effopd") / "sweeps" / "specs").iterdir())


def read_spec(spec: str | Path) -> SweepSpec:
    """Read a specification.

    Args:
        spec: Path of a YAML file, or the name of a shipped specification.

    Raises:
        ConfigurationError: There is no such file, it is not YAML, or a field is unknown, missing or wrong.
    """
    path = Path(spec)
    if not path.exists() and str(spec) in shipped_specs():
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
    """A specification from what its YAML holds.

    Raises:
        ConfigurationError: A field is unknown, missing or wrong.
    """
    if not isinstance(content, dict):
        raise ConfigurationError(f"got {type(content).__name__}; expected fields, `base: ...`, `runs: ...` and so on.")
    check_fields("specification", content, SweepSpec)
    runs = content["runs"]
    if not isinstance(runs, dict):
        raise ConfigurationError(f"runs: got {runs!r}; expected {{name: directory}}.")
    lists = {field: listed(field, content[field]) for field in ("tasks", "seeds", "sweeps") if field in content}
    made = {
        "runs": {str(name): _run(str(name), value) for name, value in runs.items()},
        "sweeps": tuple(_sweep(number, entry) for number, entry in enumerate(lists["sweeps"], start=1)),
    }
    return SweepSpec(**{**content, **lists, **made})


def _run(name: str, value: Any) -> RunSpec:
    where = f"runs: {name}"
    check_name("runs", name)
    if isinstance(value, str) and value:
        return RunSpec((value,))
    if not isinstance(value, dict):
        raise ConfigurationError(
            f"{where}: got {value!r}; expected a directory, or {{seeds: [DIR, DIR]}} for runs of the same method with "
            "several seeds. The models of one run that lie apart: {seeds: [[DIR, DIR]]}."
        )
    check_fields(where, value, RunSpec)
    seeds: list[Seed] = []
    for seed in listed(f"{where}: seeds", value["seeds"]):
        models = listed(f"{where}: seeds", seed) if isinstance(seed, list) else (seed,)
        for model in models:
            check_text(f"{where}: seeds", model)
        seeds.append(models if isinstance(seed, list) else seed)
    return RunSpec(tuple(seeds))


def _sweep(number: int, entry: Any) -> Preset:
    where = f"sweeps, entry {number}"
    if isinstance(entry, str):
        entry = {"preset": entry}
    if not isinstance(entry, dict) or "preset" not in entry:
        raise ConfigurationError(f"{where}: got {entry!r}; expected {{preset: NAME}}, one of {', '.join(PRESETS)}.")
    fields = {name: value for name, value in entry.items() if name != "preset"}
    check_choice(where, entry["preset"], PRESETS)
    preset = PRESETS[entry["preset"]]
    check_fields(f"{where}, {preset.preset}", fields, preset)
    try:
        return preset(**fields)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from error
