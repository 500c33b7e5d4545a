"""Thirds of validation prompts by the base's success, and rewards that are given only now and then."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from effopd.files import read_json_lines
from effopd.study import difficulty, sparse_reward
from effopd.study.difficulty import write_thirds
from effopd.world import make_dataset


def test_thirds_are_ordered_by_the_success_of_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = make_dataset("train", 10)
    answers = dict(zip(problems["prompt"], problems["answer"], strict=True))
    order = {prompt: index for index, prompt in enumerate(problems["prompt"])}
    seeds = []

    def sampled(model: Any, tokenizer: Any, prompts: list[str], seed: int, max_new_tokens: int) -> list[str]:
        """The n-th prompt of ten is solved in about n of ten samples: so a later one is easier."""
        seeds.append(seed)
        return [f"#{answers[each]};" if seed % 10 < order[each] else "#;" for each in prompts]

    monkeypatch.setattr(difficulty, "sample_completions", sampled)
    places = write_thirds("style", tmp_path / "validation", {"prompts": 10, "samples": 10})
    rows = {third: read_json_lines(places[third]) for third in ("hard", "medium", "easy")}
    assert {third: [order[row["prompt"]] for row in of] for third, of in rows.items()} == {
        "hard": [0, 1, 2],
        "medium": [3, 4, 5, 6],
        "easy": [7, 8, 9],
    }
    assert [row["success"] for row in rows["hard"]] == [0.0, 0.1, 0.2]
    assert all(row["answer"] == answers[row["prompt"]] for of in rows.values() for row in of)
    assert seeds == list(range(10))
    monkeypatch.setattr(difficulty, "sample_completions", lambda *args: pytest.fail("sampled again"))
    assert write_thirds("style", tmp_path / "validation", {"prompts": 10, "samples": 10}) == places


@pytest.mark.parametrize(("reward", "every"), [(sparse_reward.one_in_4, 4), (sparse_reward.one_in_16, 16)])
def test_right_answers_are_rewarded_now_and_then_and_wrong_ones_never(
    reward: Callable[..., list[float]], every: int
) -> None:
    count = 8000
    prompts, answer = ["7*3+4-9*2+5="] * count, ["7"] * count
    torch.manual_seed(0)
    state = torch.get_rng_state()
    given = reward(["#7;"] * count, answer, prompts, trainer_state=None)
    assert set(given) == {0.0, 1.0}
    assert sum(given) / count == pytest.approx(1 / every, rel=0.1)
    assert not any(reward(["#3;"] * count, answer, prompts))
    torch.set_rng_state(state)
    assert reward(["#7;"] * count, answer, prompts) == given
