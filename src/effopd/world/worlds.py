"""The named worlds: what each is made of, and how their names are written.

world:base, world:teacher, world:train              of the world `style`
world:facts/base, world:facts/teacher, world:facts/train|validation|evaluation
"""

from dataclasses import dataclass, field, replace

from effopd.checks import check_choice
from effopd.world.model import ModelSize
from effopd.world.pretrain import PretrainingConfig
from effopd.world.sibling import SiblingConfig
from effopd.world.task import TaskConfig
from effopd.world.teacher import TeacherConfig

DEFAULT_WORLD = "style"


@dataclass(frozen=True)
class WorldSettings:
    """All settings that decide a world.

    Attributes:
        task: Settings of the task.
        model_size: Sizes of the base.
        pretraining: Settings of the base's training.
        teacher: Settings of the teacher.
        seed: Random seed of everything that is drawn.
    """

    task: TaskConfig = field(default_factory=TaskConfig)
    model_size: ModelSize = field(default_factory=ModelSize)
    pretraining: PretrainingConfig = field(default_factory=PretrainingConfig)
    teacher: TeacherConfig | SiblingConfig = field(default_factory=TeacherConfig)
    seed: int = 0


_MANY_FACTS = TaskConfig(
    num_operations=3,
    step_by_step_share=1.0,
    noise=0.002,
    num_unsure_facts=100,
    fact_reliability=0.003,
    second_skill="sorting",
    second_skill_share=0.2,
)

WORLDS: dict[str, WorldSettings] = {
    "style": WorldSettings(),
    "facts": WorldSettings(task=_MANY_FACTS, teacher=TeacherConfig(num_steps=120, twin_reliability=0.2)),
    "sibling": WorldSettings(task=_MANY_FACTS, teacher=SiblingConfig()),
    "certain": WorldSettings(task=replace(_MANY_FACTS, noise=0.0, fact_reliability=0.0), teacher=SiblingConfig()),
    "long": WorldSettings(
        task=replace(_MANY_FACTS, num_operations=8, num_unsure_facts=30),
        model_size=ModelSize(hidden_size=256, intermediate_size=768, num_layers=6, num_heads=8),
        pretraining=PretrainingConfig(num_steps=2000, learning_rate=1.5e-3),
        teacher=SiblingConfig(
            model_size=ModelSize(hidden_size=256, intermediate_size=768, num_layers=6, num_heads=8),
            pretraining=PretrainingConfig(num_steps=2000, learning_rate=1.5e-3),
        ),
    ),
}


def task_config(name: str = DEFAULT_WORLD) -> TaskConfig:
    """Return the settings of a named world's task.

    Raises:
        ConfigurationError: There is no such world.
    """
    return world_settings(name).task


def world_settings(name: str) -> WorldSettings:
    """Return all settings of a named world.

    Raises:
        ConfigurationError: There is no such world.
    """
    check_choice("world", name, WORLDS)
    return WORLDS[name]


def split_name(name: str) -> tuple[str, str]:
    """Split a name such as `world:facts/base` into the world and what is wanted of it.

    Returns:
        `("facts", "base")`; `("style", "base")` for `world:base`, and `("style", "")` for `world`.

    Raises:
        ConfigurationError: There is no such world.
    """
    world, slash, part = name.removeprefix("world").removeprefix(":").rpartition("/")
    world = world if slash else DEFAULT_WORLD
    world_settings(world)
    return world, part
