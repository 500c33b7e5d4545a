import itertools
import random

import pytest

from effopd.errors import ConfigurationError
from effopd.world import TaskConfig, make_dataset
from effopd.world.task import (
    SPLITS,
    apply_operation,
    running_results,
    sample_problem,
    split_of,
    unsure_facts,
    write_completion,
)


def evaluate_independently(prompt: str) -> int:
    """The answer by integer arithmetic on a fully parenthesised expression, reduced modulo 10 only at the end."""
    chain = prompt.rstrip("=")
    expression = chain[0]
    for i in range(1, len(chain), 2):
        expression = f"({expression}{chain[i : i + 2]})"
    return int(eval(expression)) % 10


def test_running_results_of_the_documented_example() -> None:
    assert running_results("7*3+4-9*2+5=") == [1, 5, 6, 2, 7]


@pytest.mark.parametrize("num_operations", [1, 2, 5, 9])
def test_answers_agree_with_an_independent_evaluation(num_operations: int) -> None:
    dataset = make_dataset("train", 100, seed=3, config=TaskConfig(num_operations=num_operations))
    assert dataset.column_names == ["prompt", "answer"]
    for row in dataset:
        assert len(row["prompt"]) == 2 * num_operations + 2
        assert row["answer"] == str(evaluate_independently(row["prompt"]))
        assert len(running_results(row["prompt"])) == num_operations


def test_running_results_are_the_answers_of_the_prefixes() -> None:
    prompt = "0-1*7-9+8*3="
    prefixes = [prompt[:end] + "=" for end in range(3, len(prompt), 2)]
    assert running_results(prompt) == [evaluate_independently(prefix) for prefix in prefixes]


def test_splits_cover_all_problems_and_share_none() -> None:
    config = TaskConfig(num_operations=1)
    sizes = {"train": 0, "validation": 0, "evaluation": 0}
    for left in range(10):
        for operator in "+-*":
            for right in range(10):
                sizes[split_of(f"{left}{operator}{right}=")] += 1
    drawn = [prompt for split in SPLITS for prompt in make_dataset(split, sizes[split], config=config)["prompt"]]
    assert len(drawn) == len(set(drawn)) == 300 == config.num_problems


def test_datasets_are_unique_deterministic_and_in_their_split() -> None:
    for split in SPLITS:
        prompts = list(make_dataset(split, 200, seed=1)["prompt"])
        assert len(set(prompts)) == 200
        assert {split_of(prompt) for prompt in prompts} == {split}
        assert prompts == list(make_dataset(split, 200, seed=1)["prompt"])
        assert prompts != list(make_dataset(split, 200, seed=2)["prompt"])


def test_split_never_changes() -> None:
    assert split_of("7*3+4-9*2+5=") == "train"
    rng = random.Random(0)
    shares = [split_of(sample_problem("train", rng, TaskConfig())) for _ in range(50)]
    assert set(shares) == {"train"}


def test_completions_without_noise_are_right_and_in_the_asked_style() -> None:
    rng = random.Random(0)
    prompt = "7*3+4-9*2+5="
    assert write_completion(prompt, rng, TaskConfig(step_by_step_share=1.0, noise=0.0)) == "1,5,6,2,7;"
    assert write_completion(prompt, rng, TaskConfig(step_by_step_share=0.0, noise=0.0)) == "#7;"


def test_share_and_noise_have_the_rates_asked_for() -> None:
    rng = random.Random(0)
    config = TaskConfig(step_by_step_share=0.25, noise=0.5)
    completions = [write_completion("7*3+4-9*2+5=", rng, config) for _ in range(4000)]
    direct = [text for text in completions if text.startswith("#")]
    assert len(direct) / 4000 == pytest.approx(0.75, abs=0.03)
    # half the digits are redrawn from ten, one of which is the right one
    assert sum(text == "#7;" for text in direct) / len(direct) == pytest.approx(0.55, abs=0.04)


def test_unsure_facts_are_stated_rightly_as_often_as_asked_and_else_always_in_the_same_wrong_way() -> None:
    config = TaskConfig(num_operations=1, step_by_step_share=1.0, noise=0.0, num_unsure_facts=90, fact_reliability=0.3)
    wrong = unsure_facts(config)
    assert len(wrong) == 90
    assert unsure_facts(TaskConfig(num_unsure_facts=90, fact_seed=1)) != wrong
    rng = random.Random(0)
    right = 0
    for fact, result in wrong.items():
        assert result != apply_operation(*fact)
        stated = [write_completion(f"{fact[0]}{fact[1]}{fact[2]}=", rng, config) for _ in range(20)]
        assert set(stated) <= {f"{result};", f"{apply_operation(*fact)};"}
        right += sum(text == f"{apply_operation(*fact)};" for text in stated)
    assert right / 1800 == pytest.approx(0.3, abs=0.05)
    sure = next(fact for fact in itertools.product(range(10), "+-*", range(10)) if fact not in wrong)
    assert write_completion(f"{sure[0]}{sure[1]}{sure[2]}=", rng, config) == f"{apply_operation(*sure)};"


def test_a_wrong_fact_is_carried_on_in_both_styles() -> None:
    settings = {"num_unsure_facts": 300, "fact_reliability": 0.0, "noise": 0.0}
    config = TaskConfig(**settings, step_by_step_share=1.0)  # type: ignore[arg-type]
    first = unsure_facts(config)[7, "*", 3]
    second = unsure_facts(config)[first, "+", 4]
    assert write_completion("7*3+4=", random.Random(0), config) == f"{first},{second};"
    direct = TaskConfig(**settings, step_by_step_share=0.0)  # type: ignore[arg-type]
    assert write_completion("7*3+4=", random.Random(0), direct) == f"#{second};"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_unsure_facts": 301}, "num_unsure_facts: got 301"),
        ({"fact_reliability": -0.1}, "fact_reliability: got -0.1"),
        ({"second_skill": "juggling"}, "second_skill: got 'juggling', expected one of direct_answer, sorting"),
        ({"second_skill_share": 1.0}, "second_skill_share: got 1.0"),
        ({"num_operations": 0}, "num_operations: got 0, expected a whole number of at least 1"),
        ({"step_by_step_share": 1.5}, r"step_by_step_share: got 1.5, expected a finite number from 0 to 1"),
        ({"noise": 1.0}, r"noise: got 1.0, expected a finite number, at least 0 and below 1"),
        ({"noise": -0.1}, "noise: got -0.1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        TaskConfig(**settings)  # type: ignore[arg-type]


def test_unknown_split_and_impossible_sizes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="split: got 'test', expected one of train, validation, evaluation"):
        make_dataset("test", 1)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="num_examples: got 0"):
        make_dataset("train", 0)
    with pytest.raises(ConfigurationError, match=r"train split has only 2.. different problems"):
        make_dataset("train", 301, config=TaskConfig(num_operations=1))
