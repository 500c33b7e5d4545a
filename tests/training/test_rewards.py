import threading
from pathlib import Path
from typing import Any

import pytest

from effopd.errors import ConfigurationError
from effopd.grading import Verdict, grade_math
from effopd.training.rewards import math_reward, resolve_rewards


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        (r"so \boxed{42}", "42", 1.0),
        (r"first \boxed{41}, no: \boxed{42}.", "42", 1.0),
        (r"first \boxed{42}, no: \boxed{41}.", "42", 0.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"\boxed{\dfrac{2}{4}}", r"$\frac{1}{2}$", 1.0),
        (r"\boxed{\frac{1}{3}}", r"\boxed{\frac{1}{2}}", 0.0),
        (r"\boxed{1,234 \text{ dollars}}", "1234", 1.0),
        (r"\boxed{x=5}", "5", 1.0),
        (r"\boxed{\{1, 2\}}", r"\{2, 1\}", 1.0),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}", 1.0),
        (r"\boxed{\infty}", r"\infty", 1.0),
        ("We add 41 and 1, so the answer is 42.", "42", 1.0),
        ("We add 42 and 1, so the answer is 43.", "42", 0.0),
        (r"\boxed{\text{yes}}", "Yes", 1.0),
        (r"\boxed{seY}", "Yes", 0.0),  # the same product of symbols
        (r"\boxed{No}", "Yes", 0.0),
        (r"\boxed{ @@ }", "@@", 1.0),  # an answer that math-verify cannot read
        (r"\boxed{1}", "@@", 0.0),
        (r"the answer 42 is \boxed{4", "42", 0.0),  # cut off
        (r"\boxed{}", "42", 0.0),
        ("", "42", 0.0),
    ],
)
def test_math_reward(completion: str, answer: str, reward: float) -> None:
    assert math_reward([completion], [answer]) == [reward]
    messages = [{"role": "assistant", "content": completion}]
    assert math_reward([messages], answer=[answer], prompts=["?"], completion_ids=[[1]]) == [reward]


def test_math_reward_takes_a_message_without_content_and_a_numeric_answer() -> None:
    completions = [[{"role": "assistant", "content": None}], "42"]
    assert math_reward(completions, [42, 42]) == [0.0, 1.0]  # type: ignore[list-item]


def test_math_reward_needs_one_answer_per_completion() -> None:
    with pytest.raises(ValueError, match="zip"):
        math_reward(["1", "2"], ["1"])


@pytest.mark.parametrize(
    ("content", "kinds"),
    [
        ("9^{9^{9^9}}", {"time limit", "crashed"}),
        ("((9!)!)!", {"time limit", "crashed"}),
        (r"\sum_{i=1}^{10^9} \frac{1}{i^2}", {"time limit", "crashed"}),
        ("(" * 400, {"time limit", "crashed"}),
        (r"\frac{" * 3000 + "1" + "}" * 3000, {"wrong answer"}),
        ("1" * 100_000, {"wrong answer"}),
        ("{" * 10_000, {"no answer"}),
    ],
)
def test_pathological_answers_are_broken_off(content: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = []

    def grade(*args: Any, **kwargs: Any) -> list[Verdict]:
        verdicts.extend(grade_math(*args, **kwargs))
        return verdicts

    monkeypatch.setattr("effopd.training.rewards._TIMEOUT_SECONDS", 1)
    monkeypatch.setattr("effopd.training.rewards.grade_math", grade)
    assert math_reward([rf"\boxed{{{content}}}"], ["42"]) == [0.0]
    assert {verdict.kind for verdict in verdicts} <= kinds


def test_math_reward_works_outside_the_main_thread() -> None:
    rewards: list[float] = []
    thread = threading.Thread(target=lambda: rewards.extend(math_reward([r"\boxed{0.5}", "3"], [r"\frac12", "4"])))
    thread.start()
    thread.join()
    assert rewards == [1.0, 0.0]


def test_resolve_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("LIMIT = 3\ndef length_reward(completions, **kwargs): return [1.0]\n")
    (tmp_path / "broken_rewards.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve_rewards("math") == [math_reward]
    world, length = resolve_rewards(["world", "my_rewards:length_reward"])
    assert world.__name__ == "world_reward"
    assert length(completions=["a"]) == [1.0]
    with pytest.raises(ConfigurationError, match="'maths', expected 'world', 'math'"):
        resolve_rewards("maths")
    with pytest.raises(ConfigurationError, match=r"no module 'no_such_module'.*PYTHONPATH"):
        resolve_rewards("no_such_module.rewards:f")
    with pytest.raises(ConfigurationError, match="has no 'lenght_reward'; it has length_reward"):
        resolve_rewards("my_rewards:lenght_reward")
    with pytest.raises(ConfigurationError, match="is a int, expected a function"):
        resolve_rewards("my_rewards:LIMIT")
    with pytest.raises(ConfigurationError, match="got none"):
        resolve_rewards([])
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        resolve_rewards("broken_rewards:f")
