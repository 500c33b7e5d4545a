"""Completions of the embedded world: right, wrong and malformed ones are told apart."""

from effopd import world
from effopd.grading.world import grade_world


def test_the_world() -> None:
    dataset = world.make_dataset("evaluation", 1)
    answer = dataset["answer"][0]
    wrong = str((int(answer) + 1) % 10)
    verdicts = grade_world([f"#{answer}", f"#{wrong}", f"{answer}#"], [answer] * 3)
    assert [verdict.kind for verdict in verdicts] == ["passed", "wrong answer", "malformed"]
