"""verl's own command under Ray, interrupted and resumed, with `EffOPDTrainer` and a stand-in for rollouts."""

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from verl_processes import ENVIRONMENT, needs_verl
from verl_worlds import overrides, write_world

pytestmark = needs_verl
NUM_PROMPTS, ROLLOUTS = 6, 8
VOCABULARY = ["", "", *"0123456789+-*=,#"]  # the first two are padding and the end
# What validation adds to the reward, by the number of times that the engine has been given weights: see reward.py. So
# the first trigger accepts scale 2, the second none, and the third, after the interruption, 4.
SCORES = {2: 0.2, 3: 0.5, 4: 0.3, 6: 0.5, 7: 0.3, 11: 0.1, 12: 0.3, 13: 0.6}
REWARD = """
from pathlib import Path
SCORES = {scores}

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **others):
    loads = sum('"load"' in line for line in (Path(__file__).parents[1] / "events.jsonl").read_text().splitlines())
    found = float(ground_truth in solution_str)
    return SCORES[loads] + 0.01 * found if loads in SCORES else found
"""


class Weights(NamedTuple):
    """Weights that the engine was given, and what it sampled from them."""

    tensors: dict[str, torch.Tensor]
    step: int
    was_asleep: bool
    samples: list[dict[str, Any]]


def train(out: Path, steps: int) -> None:
    settings = overrides(out / "world", out / "run", num_prompts=NUM_PROMPTS, scales=[2, 4])
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *settings, f"trainer.total_training_steps={steps}"]
    environment = ENVIRONMENT | {"STAND_IN_EVENTS": str(out), "PYTHONWARNINGS": "ignore,default:EffOPD in verl"}
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, timeout=1200, check=False)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-8000:]
    assert "EffOPD in verl is experimental" in log


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training")
    write_world(out / "world", REWARD.format(scores=SCORES))
    train(out, 2)
    train(out, 4)
    return out


@pytest.fixture(scope="module")
def given(trained: Path) -> list[Weights]:
    found: list[Weights] = []
    for line in (trained / "events.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "load":
            tensors = load_file(trained / f"{event['weights']}.safetensors")
            found.append(Weights(tensors, event["step"], event["was_asleep"], []))
        elif event["event"] == "sample":
            found[-1].samples.append(event)
    return found


@pytest.fixture(scope="module")
def records(trained: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (trained / "run" / "extrapolations.jsonl").read_text().splitlines()]


def same(left: Weights, right: dict[str, torch.Tensor]) -> bool:
    assert left.tensors.keys() == right.keys()
    return all(torch.equal(value, right[name]) for name, value in left.tensors.items())


def extrapolated(anchor: Weights, current: Weights, scale: float) -> dict[str, torch.Tensor]:
    return {name: torch.lerp(value, current.tensors[name], 1 + scale) for name, value in anchor.tensors.items()}


def test_the_engine_gets_weights_asleep_and_in_order(given: list[Weights]) -> None:
    assert [weights.step for weights in given] == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 4, 4, 4]
    assert all(weights.was_asleep for weights in given)
    validations = [len(weights.samples) == NUM_PROMPTS for weights in given]
    assert validations == [index + 1 in SCORES for index in range(len(given))]
    others = [len(weights.samples) for weights, is_one in zip(given, validations, strict=True) if not is_one]
    assert others == [ROLLOUTS, ROLLOUTS, 0, ROLLOUTS, ROLLOUTS, 0]  # nothing is sampled at the end of either run


def test_candidates_are_extrapolated_and_the_next_rollouts_come_from_what_was_accepted(given: list[Weights]) -> None:
    """The anchors: the initial weights, those that the first trigger left, and, after resuming, the second's."""
    for anchor, current, scales, left, accepted in ((0, 1, (2, 4), 4, 2), (4, 5, (2,), 7, 0), (7, 10, (2, 4), 13, 4)):
        for index, scale in enumerate(scales, start=current + 1):
            assert same(given[index], extrapolated(given[anchor], given[current], scale))
        assert same(given[left], extrapolated(given[anchor], given[current], accepted))
        assert same(given[left], given[current].tensors) == (accepted == 0)
        assert not same(given[anchor], given[current].tensors)


def test_resuming_goes_on_from_the_accepted_weights(given: list[Weights], trained: Path) -> None:
    assert same(given[8], given[7].tensors)
    folder = trained / "run" / "global_step_2" / "actor" / "effopd"
    assert {path.name for path in folder.iterdir()} >= {"state.json", "anchor-00001-of-00002.safetensors"}


def test_records_have_scores_and_costs(given: list[Weights], records: list[dict[str, Any]]) -> None:
    assert [record["step"] for record in records] == [1, 2, 4]
    assert [record["accepted_scale"] for record in records] == [2, 0, 4]
    for record, first in zip(records, (1, 5, 10), strict=True):
        validated = given[first : first + 1 + len(record["candidates"])]
        scores = [record["baseline"], *record["candidates"]]
        for number, (weights, score) in enumerate(zip(validated, scores, strict=True), start=first + 1):
            found = [is_right(sample) for sample in weights.samples]
            assert score["score"] == pytest.approx(SCORES[number] + 0.01 * sum(found) / NUM_PROMPTS, abs=1e-6)
        answers = [sample["answer"] for weights in validated for sample in weights.samples]
        assert record["rollouts"] == len(answers)
        assert record["generated_tokens"] == sum(map(len, answers))
        assert record["teacher_tokens"] == 0
        assert record["validation_seconds"] > 0
        assert record["extrapolation_seconds"] > 0


def is_right(sample: dict[str, Any]) -> bool:
    prompt, answer = ("".join(VOCABULARY[token] for token in tokens) for tokens in (ids(sample), sample["answer"]))
    left, right = prompt.rstrip("=").split("+")
    return str((int(left) + int(right)) % 10) in answer


def ids(sample: dict[str, Any]) -> list[int]:
    return [int(token) for token in sample["prompt"].split()]


def test_validation_samples_the_same_prompts_from_the_whole_distribution(given: list[Weights]) -> None:
    rows = random.Random(0).sample(range(32), NUM_PROMPTS)
    expected = sorted(" ".join(str(VOCABULARY.index(c, 2)) for c in f"{i % 10}+{i * 7 % 10}=") for i in rows)
    answers = set()
    for number, weights in enumerate(given, start=1):
        if number in SCORES:
            assert sorted(sample["prompt"] for sample in weights.samples) == expected
            assert all((s["temperature"], s["top_p"], s["top_k"]) == (1, 1, -1) for s in weights.samples)
            answers.add(json.dumps(sorted(sample["answer"] for sample in weights.samples)))
    assert len(answers) > 1
