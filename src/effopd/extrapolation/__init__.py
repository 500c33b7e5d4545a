"""EffOPD: jump along the update direction where validation says that this helps (arXiv 2605.11739).

It works with any TRL trainer that generates:

    trainer = DistillationTrainer(model, teacher_model=teacher, args=args, train_dataset=dataset)
    trainer.add_callback(EffOPDCallback(trainer, reward=reward_function))
    trainer.train()

In a training loop of your own, which needs torch and safetensors only:

    extrapolator = Extrapolator(dict(model.named_parameters()), validate=score)
    for step in range(1, num_steps + 1):
        ...                                                       # one step of your optimizer
        extrapolator.step(step)

Its parts work alone too: `Snapshot` moves the weights, `search` and `line_search` choose the scale.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from effopd.extrapolation.line_search import line_search
from effopd.extrapolation.own_loop import Extrapolator
from effopd.extrapolation.presets import PRESETS, ExtrapolationConfig
from effopd.extrapolation.schedule import parse_schedule
from effopd.extrapolation.search import Candidate, Score, SearchResult, search
from effopd.extrapolation.snapshot import Displacement, Snapshot
from effopd.extras import needed_by

if TYPE_CHECKING:
    from effopd.extrapolation.callback import EffOPDCallback
    from effopd.extrapolation.next_rollouts import NextRolloutsValidator
    from effopd.extrapolation.validation import (
        RewardValidator,
        SharedKLValidator,
        TeacherKLValidator,
        Validator,
        validate,
    )

__all__ = [
    "Candidate",
    "Displacement",
    "EffOPDCallback",
    "ExtrapolationConfig",
    "Extrapolator",
    "NextRolloutsValidator",
    "PRESETS",
    "RewardValidator",
    "Score",
    "SearchResult",
    "SharedKLValidator",
    "Snapshot",
    "TeacherKLValidator",
    "Validator",
    "line_search",
    "parse_schedule",
    "search",
    "validate",
]

# What needs TRL, by the file of this package that has it. It is loaded when it is first used.
_WITH_TRL = {"EffOPDCallback": "callback", "NextRolloutsValidator": "next_rollouts"} | dict.fromkeys(
    ("RewardValidator", "SharedKLValidator", "TeacherKLValidator", "Validator", "validate"), "validation"
)


def __getattr__(name: str) -> Any:
    if name not in _WITH_TRL:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needed_by(f"{__name__}.{name}"):
        return getattr(import_module(f"{__name__}.{_WITH_TRL[name]}"), name)
