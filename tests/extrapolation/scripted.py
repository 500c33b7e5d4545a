"""The callback on a tiny trainer, with scores that are given."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import contains_answer, weights

from effopd.extrapolation import EffOPDCallback
from effopd.extrapolation import callback as callback_module
from effopd.extrapolation.search import Score


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "extrapolations.jsonl").read_text().splitlines()]


class Scripted:
    """Stands in for `validate`: gives the scores it was told to, and keeps the weights and seeds it was given."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)
        self.seen: list[dict[str, torch.Tensor]] = []
        self.seeds: list[int] = []

    def __call__(self, trainer: Any, validator: Any, rows: Any, seed: int) -> Score:
        self.seen.append(weights(trainer))
        self.seeds.append(seed)
        return Score(self.scores.pop(0))


def script(monkeypatch: pytest.MonkeyPatch, *scores: float) -> Scripted:
    scripted = Scripted(*scores)
    monkeypatch.setattr(callback_module, "validate", scripted)
    return scripted


def with_effopd(trainer: Any, **kwargs: Any) -> EffOPDCallback:
    judged_by_teacher = kwargs.get("preset") in ("adaptive", "line_search") or "validator" in kwargs
    kwargs = {"reward": None if judged_by_teacher else contains_answer, "num_prompts": 10} | kwargs
    callback = EffOPDCallback(trainer, **kwargs)
    trainer.add_callback(callback)
    return callback
