"""The specification of a sweep. It is read from YAML, and checked before any model is loaded."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

from effopd.checks import (
    check_choice,
    check_fields,
    check_file_name,
    check_list,
    check_text,
    check_whole,
)
from effopd.errors import ConfigurationError
from effopd.evaluation.settings import BACKENDS, TaskSettings
from effopd.files import read_yaml
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
class SweepTask:
    """A task of a sweep.

    Attributes:
        name: Name in results and figures; by default that of the task.
        own: Fields of `TaskSettings` that the task sets itself; the specification sets the others for all tasks.
    """

    name: str
    own: Mapping[str, Any]

    def to_json(self) -> Any:
        """Return the entry of the specification: the name of the task if it sets nothing else, else its fields."""
        return self.name if self.own == {"task": self.name} else {"name": self.name, **self.own}


@dataclass(frozen=True)
class SweepSpec:
    """What a sweep evaluates: runs x interventions x values x tasks x seeds.

    The fields of `effopd.evaluation.settings.TaskSettings` that are here, too, are for tasks that do not set their own.

    Attributes:
        base: Directory or hub name of the model that all runs started from; `world:base` is that of the embedded world.
        runs: Runs by name of the method.
        sweeps: Sweeps, each of which says what models are made of a run.
        tasks: Tasks, each with its name and what it sets itself.
        seeds: Random seeds for sampling, at least 0. Every model is evaluated with each of them, on the same problems.
        teacher: Directory or hub name of a model with the runs' tokenizer, to which `norm_matching` measures the KL
            divergence; `world:teacher` is that of the embedded world. None measures none.
        root: Directory that relative paths of runs start from; by default the current one.
        limit: Number of problems per task, the same ones for every cell; None for all.
        chat: Whether to put text prompts into the model's chat template.
        system_prompt: Text of the system's message before each problem; only with `chat`.
        chat_template_kwargs: What the chat template is given besides the messages, by name; only with `chat`.
        max_new_tokens: Limit on the tokens of a completion; None takes the task's own.
        num_samples: Number of completions per problem.
        temperature: Sampling temperature.
        batch_size: Number of completions that are sampled at a time.
        backend: Backend that samples: `hf`, the model in memory itself, or `vllm`, one engine for each worker.
        engine: Arguments of `vllm.LLM`, by name.
        completions: Whether the completions of every cell are kept, compressed.
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
    tasks: tuple[SweepTask, ...]
    seeds: tuple[int, ...] = (0,)
    teacher: str | None = None
    root: str | None = None
    limit: int | None = None
    chat: bool = False
    system_prompt: str | None = None
    chat_template_kwargs: Mapping[str, Any] | None = None
    max_new_tokens: int | None = None
    num_samples: int = 1
    temperature: float = 1.0
    batch_size: int = 256
    backend: str = "hf"
    engine: Mapping[str, Any] | None = None
    completions: bool = True
    dtype: Dtype = "float32"
    max_checkpoints: int | None = None
    max_values: int | None = None

    def __post_init__(self) -> None:
        for field in ("base", "teacher", "root"):
            if (value := getattr(self, field)) is not None or field == "base":
                check_text(field, value)
        for field in ("max_checkpoints", "max_values"):
            if (value := getattr(self, field)) is not None:
                check_whole(field, value, 1)
        check_choice("dtype", self.dtype, get_args(Dtype))
        check_choice("backend", self.backend, BACKENDS)
        if self.engine is not None and (self.backend != "vllm" or not isinstance(self.engine, Mapping)):
            raise ConfigurationError(
                f"engine: got {self.engine!r}, expected arguments of vllm.LLM by name, and backend: vllm."
            )
        if not isinstance(self.completions, bool):
            raise ConfigurationError(f"completions: got {self.completions!r}, expected true or false.")
        TaskSettings("tasks", **self._shared())  # checks them
        check_list("tasks: names", [task.name for task in self.tasks])
        self.task_settings()
        for seed in check_list("seeds", self.seeds):
            check_whole("seeds", seed, 0)
        if not self.runs:
            raise ConfigurationError("runs: got none, expected at least one, {name: directory}.")
        names = check_list("sweeps: names", [sweep.name for sweep in self.sweeps])
        for name, sweep in zip(names, self.sweeps, strict=True):
            for run in sweep.runs:
                check_choice(f"{name}: runs", run, self.runs)

    def task_settings(self) -> dict[str, TaskSettings]:
        """Return by its name how each task is put to a model.

        Raises:
            ConfigurationError: A value is wrong; the message names the task.
        """
        made = {}
        for task in self.tasks:
            try:
                made[task.name] = TaskSettings(**{**self._shared(), **task.own})
            except ConfigurationError as error:
                raise ConfigurationError(f"tasks: {task.name}: {error}") from error
        return made

    def _shared(self) -> dict[str, Any]:
        names = {field.name for field in fields(TaskSettings)} & {field.name for field in fields(SweepSpec)}
        return {name: getattr(self, name) for name in names}

    def quick(self) -> "SweepSpec":
        """Return this specification with fewer problems, seeds, checkpoints and values, but all its runs and sweeps."""
        return replace(
            self,
            tasks=tuple(replace(task, own=_quick(task.own)) for task in self.tasks),
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
        plain["tasks"] = [task.to_json() for task in self.tasks]
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
    content = read_yaml(path)
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
        "tasks": tuple(_task(number, entry) for number, entry in enumerate(lists["tasks"], start=1)),
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


def _task(number: int, entry: Any) -> SweepTask:
    where = f"tasks, entry {number}"
    if isinstance(entry, dict):
        own = {name: value for name, value in entry.items() if name != "name"}
        check_fields(where, own, TaskSettings)
    else:
        own = {"task": entry}
    check_text(f"{where}: task", own["task"])
    name = entry.get("name", own["task"]) if isinstance(entry, dict) else entry
    check_text(f"{where}: name", name)
    return SweepTask(name, own)


def _quick(own: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a task sets itself, with at most as many problems and samples as the quick specification."""
    limits = {"limit": min(own["limit"] or QUICK_LIMIT, QUICK_LIMIT)} if "limit" in own else {}
    return {**own, **limits, **({"num_samples": 1} if "num_samples" in own else {})}


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
