import random

import pytest

from effopd.errors import ConfigurationError
from effopd.world import TaskConfig, make_dataset, make_second_dataset
from effopd.world.pretrain import make_batch
from effopd.world.second_skill import second_completion_length
from effopd.world.task import SecondSkill, split_of
from effopd.world.tokenizer import make_tokenizer

SORTING = TaskConfig(second_skill="sorting", second_skill_share=0.25, num_operations=3)


def test_sorting_asks_for_the_digits_in_order() -> None:
    dataset = make_second_dataset("evaluation", 50, seed=1, config=SORTING)
    assert len(set(dataset["prompt"])) == 50
    for row in dataset:
        assert row["prompt"][0] == "#" and row["prompt"][-1] == "=" and len(row["prompt"]) == 7
        assert row["answer"] == "".join(sorted(row["prompt"][1:6]))
        assert split_of(row["prompt"]) == "evaluation"
        assert second_completion_length(SORTING) == len(row["answer"]) + 1


def test_direct_answers_are_those_of_the_problems() -> None:
    second = make_second_dataset("validation", 50, seed=1)
    problems = make_dataset("validation", 50, seed=1)
    assert list(second["prompt"]) == [f"{prompt}#" for prompt in problems["prompt"]]
    assert list(second["answer"]) == list(problems["answer"])
    assert second_completion_length(TaskConfig()) == 2


@pytest.mark.parametrize("second_skill", ["sorting", "direct_answer"])
def test_a_share_of_the_batch_trains_it_and_prompts_are_never_learned(second_skill: SecondSkill) -> None:
    tokenizer = make_tokenizer()
    config = TaskConfig(second_skill=second_skill, second_skill_share=0.25, num_operations=3, noise=0.0)
    input_ids, labels = make_batch(tokenizer, config, 32, random.Random(0))
    kinds = []
    for ids, wanted in zip(input_ids, labels, strict=True):
        text = tokenizer.decode(ids[ids != tokenizer.pad_token_id])
        learned = tokenizer.decode(wanted[wanted != -100])
        assert text.endswith(learned) and text.endswith(";")
        prompt = text.removesuffix(learned)
        if prompt.startswith("#"):
            assert learned == "".join(sorted(prompt[1:-1])) + ";"
        kinds.append(prompt.startswith("#") or prompt.endswith("#"))
        assert prompt.endswith("=" if prompt.startswith("#") or not kinds[-1] else "=#")
    assert kinds == [False] * 24 + [True] * 8


def test_a_share_of_zero_changes_no_batch() -> None:
    """The world in the package was built before there was a second skill."""
    batches = [
        make_batch(make_tokenizer(), TaskConfig(**settings), 16, random.Random(3))[0].tolist()
        for settings in ({}, {"second_skill": "sorting"}, {"num_unsure_facts": 100, "fact_reliability": 1.0})
    ]
    assert batches[0] == batches[1]
    assert batches[0] != batches[2]  # which draws whether each unsure fact is stated rightly


def test_too_many_problems_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="sorting has only 100 different problems"):
        make_second_dataset("train", 6, config=TaskConfig(second_skill="sorting", sorted_digits=2))
