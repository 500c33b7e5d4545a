"""What a study trains: the methods, worlds and seeds of `plan.yaml`, and the runs that they make."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from effopd.checks import check_choice, check_list, check_whole
from effopd.files import load_yaml
from effopd.world import card

ALL_SWEEPS = "all"
RL_METHODS = ("grpo", "dapo", "ppo")


@dataclass(frozen=True)
class MethodPlan:
    """How one method trains. `plan.yaml` explains the fields."""

    label: str
    at: str = "careful"
    method: str = "opd"
    acceleration: str = "none"
    extrapolation: Mapping[str, Any] | None = None
    rate: float = 1.0
    steps: float = 1.0
    swept: str | None = None
    validation: str | None = None
    reward: str = "world"

    @property
    def is_rl(self) -> bool:
        """Whether it learns from rewards and not from a teacher."""
        return self.method in RL_METHODS


@dataclass(frozen=True)
class Training:
    """One training run, with everything that decides it.

    Attributes:
        world: Name of the world.
        role: Name of the method.
        seed: Seed of training.
        plan: How the method trains.
        steps: Number of optimizer steps.
        learning_rate: Learning rate.
        prompts_per_step: Number of prompts per step.
        save_steps: Number of steps between the checkpoints that are kept; None keeps only what resuming needs.
        evaluate_every: Number of steps between two measurements of accuracy, if it is distillation.
        evaluation_problems: Number of problems that accuracy is measured on.
        thirds: Numbers of prompts and samples of which thirds by difficulty are made (see `study.difficulty`).
    """

    world: str
    role: str
    seed: int
    plan: MethodPlan
    steps: int
    learning_rate: float
    prompts_per_step: int
    save_steps: int | None
    evaluate_every: int
    evaluation_problems: int
    thirds: Mapping[str, int]

    @property
    def name(self) -> str:
        """The name of the run in its world."""
        return f"{self.role}-{self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """A study of embedded worlds.

    Attributes:
        name: `full`, `short` or `quick`.
        worlds: Names of the worlds.
        seeds: Seeds of training.
        methods: Methods by role.
        settings: Contents of the plan's part of `plan.yaml`.
    """

    name: str
    worlds: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: Mapping[str, MethodPlan]
    settings: Mapping[str, Any]

    def trainings(self, world: str) -> Iterator[Training]:
        """Yield the runs of a world, seed by seed, so that an early end leaves whole seeds."""
        sizes = self.settings["worlds"][world]
        for seed in self.seeds:
            for role, plan in self.methods.items():
                of_world = sizes["rl_steps"] if plan.is_rl else sizes["steps"]
                steps = max(1, round(of_world * plan.steps))
                yield Training(
                    world=world,
                    role=role,
                    seed=seed,
                    plan=plan,
                    steps=steps,
                    learning_rate=sizes[plan.at]["learning_rate"] * plan.rate,
                    prompts_per_step=sizes[plan.at]["prompts_per_step"],
                    save_steps=max(1, steps // self.settings["checkpoints"]) if plan.swept else None,
                    evaluate_every=sizes.get("evaluate_every", 2),
                    evaluation_problems=self.settings["evaluation_problems"],
                    thirds=self.settings.get("validation", {}),
                )

    def target(self, world: str) -> float:
        """Compute the accuracy up to which costs are counted: nine tenths of the way from the base to the teacher."""
        of = card(world)
        base, teacher = (of[model]["sampled_accuracy"]["accuracy"] for model in ("base", "teacher"))
        return float(base + 0.9 * (teacher - base))

    def sweep(self, world: str, runs: Path) -> dict[str, Any]:
        """Make the specification of a world's sweep, as `effopd.sweeps.make_spec` takes it."""
        swept = {role: plan for role, plan in self.methods.items() if plan.swept}
        whole = [plan.label for plan in swept.values() if plan.swept == ALL_SWEEPS]
        sweeps = []
        for each in self.settings["sweep"]["sweeps"]:
            preset = {"preset": each} if isinstance(each, str) else each
            only = [plan.label for plan in swept.values() if plan.swept == preset["preset"]]
            sweeps.append({**preset, "runs": whole + only})
        return {
            "base": f"world:{world}/base",
            "teacher": f"world:{world}/teacher",
            "root": str(runs),
            "runs": {plan.label: {"seeds": [f"{role}-{seed}" for seed in self.seeds]} for role, plan in swept.items()},
            "tasks": [{"name": world, "task": f"world:{world}/evaluation"}],
            **self.settings["sweep"],
            "sweeps": sweeps,
        }


def make_plan(
    name: Literal["full", "short", "quick"] = "full",
    *,
    worlds: Sequence[str] | None = None,
    seeds: int | None = None,
) -> StudyPlan:
    """Make the plan of a study.

    Args:
        name: Which of the plans of `plan.yaml`.
        worlds: Names of worlds, in place of the plan's.
        seeds: Number of seeds of training, in place of the plan's.

    Raises:
        ConfigurationError: The plan has no such world, or there are no seeds.
    """
    content = load_yaml(files("effopd").joinpath("study", "plan.yaml").read_text(encoding="utf-8"))
    check_choice("name", name, ("full", "short", "quick"))
    settings = content[name]
    chosen = check_list("worlds", list(worlds or settings["worlds"]))
    for world in chosen:
        check_choice(f"worlds, of the {name} study", world, settings["worlds"])
    number = settings["seeds"] if seeds is None else seeds
    check_whole("seeds", number, 1)
    methods = {role: MethodPlan(**fields) for role, fields in content["methods"].items()}
    if settings["methods"] != "all":
        methods = {role: methods[role] for role in settings["methods"]}
    first = content["first_seed"]
    return StudyPlan(name, tuple(chosen), tuple(range(first, first + number)), methods, settings)
