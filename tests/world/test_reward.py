import pytest

from effopd.world import answering_style, world_reward


@pytest.mark.parametrize(
    ("completion", "style"),
    [
        ("#7", "direct"),
        ("#7;", "direct"),
        ("1,5,6,2,7", "step_by_step"),
        ("1,5,6,2,7;", "step_by_step"),
        ("", "malformed"),
        (";", "malformed"),
        ("#", "malformed"),
        ("7", "malformed"),
        ("#77", "malformed"),
        ("#1,7", "malformed"),
        ("1,5,6,2", "malformed"),
        ("1,5,6,2,7,7", "malformed"),
        ("1,5,6,2,7,", "malformed"),
        ("1,5,6,2,", "malformed"),
        ("15627", "malformed"),
        ("1,5,6,2,7;;", "malformed"),
        ("1,5,6,2,7\n", "malformed"),
        ("1,5,6,2,\u0667", "malformed"),
    ],
)
def test_answering_style(completion: str, style: str) -> None:
    assert answering_style(completion) == style
    if style == "malformed":
        assert world_reward([completion], ["7"]) == [0.0]
    else:
        assert world_reward([completion, completion], ["7", "6"]) == [1.0, 0.0]


def test_only_the_final_digit_must_be_right() -> None:
    assert world_reward(["0,0,0,0,7"], ["7"]) == [1.0]


def test_number_of_operations_is_read_from_the_prompts() -> None:
    assert world_reward(["3,7", "3,7"], ["7", "7"], prompts=["1+2+4=", "1+2+4+0="]) == [1.0, 0.0]
    assert world_reward(["3,7"], ["7"], num_operations=2) == [1.0]
    assert answering_style("3", num_operations=1) == "step_by_step"


def test_conversational_completions_and_what_else_trl_passes() -> None:
    completions = [[{"role": "assistant", "content": "#7"}], [{"role": "assistant", "content": "#"}]]
    rewards = world_reward(completions, ["7", "7"], prompts=["7*3+4-9*2+5="] * 2, trainer_state=None, completion_ids=[])
    assert rewards == [1.0, 0.0]


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        world_reward(["#7", "#7"], ["7"])
