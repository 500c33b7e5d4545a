"""The line of a trigger, made of scores that are given."""

import math

import torch

from effopd.extrapolation import Score, Snapshot
from effopd.extrapolation.records import COSTS, make_record
from effopd.extrapolation.search import search


def test_a_line_holds_what_a_trigger_found() -> None:
    weight = torch.zeros(4)
    snapshot = Snapshot({"w": weight})
    weight[:2] = torch.tensor([3.0, 4.0])
    scores = {0.0: Score(0.5, 0.1), 2.0: Score(0.6, 0.2, kl_to_current=0.3), 4.0: Score(math.nan)}
    result = search(scores.__getitem__, (2.0, 4.0), confirm=lambda scale: Score(0.7, 0.4))
    cost = {name: float(number) for number, name in enumerate(COSTS)}
    row = make_record(8, result, snapshot.displacement(), None, cost, 16.0, {2.0: (0.5, 0.25)})
    first, second = row.pop("candidates")
    assert first.pop("reason") and "not finite" in second.pop("reason")
    assert first == {
        **{"scale": 2.0, "score": 0.6, "stderr": 0.2, "accepted": True, "kl_to_current": 0.3},
        **{"confirmation": {"score": 0.7, "stderr": 0.4}, "truncation": {"max": 0.5, "mean": 0.25}},
    }
    assert second == {
        **{"scale": 4.0, "score": None, "stderr": None, "accepted": False, "kl_to_current": None},
        **{"confirmation": None, "truncation": None},
    }
    assert row == {
        **{"step": 8, "accepted_scale": 2.0, "baseline": {"score": 0.5, "stderr": 0.1}, "skipped": None},
        **{"all_scores_equal": False, "delta_norm": {"other": 5.0, "total": 5.0}, "cosine_to_previous": None},
        **{"learning_rate_multiple": 16.0, "changed_fraction": 0.5, "moving_fraction": 1.0, **cost},
    }
