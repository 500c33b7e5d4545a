"""EffOPD: jump along the update direction where validation says that this helps (arXiv 2605.11739).

It works with any TRL trainer that generates:

    trainer = DistillationTrainer(model, teacher_model=teacher, args=args, train_dataset=dataset)
    trainer.add_callback(EffOPDCallback(trainer, reward=reward_function))
    trainer.train()

Its parts work alone, with weights and a score of your own:

    snapshot = Snapshot(dict(model.named_parameters()))           # the anchor
    ...                                                           # train
    snapshot.begin()                                              # W_t
    result = search(lambda scale: (snapshot.write_candidate(scale), score(model))[1], scales=(2, 4, 6, 8, 10))
    snapshot.write_candidate(result.accepted_scale)
    snapshot.commit()                                             # the next anchor
"""

from effopd.extrapolation.callback import EffOPDCallback
from effopd.extrapolation.line_search import line_search
from effopd.extrapolation.next_rollouts import NextRolloutsValidator
from effopd.extrapolation.presets import PRESETS, ExtrapolationConfig
from effopd.extrapolation.schedule import parse_schedule
from effopd.extrapolation.search import Candidate, Score, SearchResult, search
from effopd.extrapolation.snapshot import Displacement, Snapshot
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
