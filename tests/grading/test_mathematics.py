"""Final answers: reasons, order, and how they may be written. More pairs are in tests/training/test_rewards.py."""

import threading

import pytest

from effopd.grading import grade_math
from effopd.grading.boxed_answer import last_boxed
from effopd.grading.compare_text import compare_text

HANGS = r"\boxed{9^{9^{9^9}}}"


def test_reasons() -> None:
    completions = [r"\boxed{\frac{2}{4}}", r"\boxed{41}", r"\boxed{4", "it is 7", r"\boxed{no}", r"\boxed{42}"]
    verdicts = grade_math(completions, ["0.5", "42", "42", "8", "yes", 42])
    assert [verdict.reason for verdict in verdicts] == [
        "passed",
        "wrong answer: got 41, expected 42",
        r"no answer: \boxed{} is empty, or never closed",
        "wrong answer: got the last expression of the text, expected 8",
        "wrong answer: got no, expected yes",
        "passed",
    ]
    assert all(verdict.passed == (verdict.reason == "passed") for verdict in verdicts)


def test_an_answer_that_hangs_costs_itself_only_also_outside_the_main_thread() -> None:
    results: list[list[bool]] = []

    def grade() -> None:
        verdicts = grade_math(
            [r"\boxed{0.5}", HANGS, r"\boxed{1/3}", HANGS, r"\boxed{\frac14}"], ["1/2"] * 5, timeout_s=1
        )
        assert {verdict.kind for verdict in verdicts} <= {"passed", "wrong answer", "time limit", "crashed"}
        results.append([verdict.passed for verdict in verdicts])

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join(timeout=90)
    assert results == [[True, False, False, False, False]]


def test_order_is_kept_over_many_workers() -> None:
    numbers = list(range(200))
    completions = [rf"\boxed{{{number}.0}}" if number % 3 else rf"\boxed{{{number} + 1}}" for number in numbers]
    verdicts = grade_math(completions, [str(number) for number in numbers], workers=3)
    assert [verdict.passed for verdict in verdicts] == [bool(number % 3) for number in numbers]


def test_most_answers_need_no_worker() -> None:
    assert compare_text(r"\boxed{\text{Yes}}", "yes") is True
    assert compare_text(r"\boxed{42}", "$42$") is True
    assert compare_text(r"\boxed{" + "1" * 501 + "}", "1") is False
    assert compare_text(r"\boxed{41}", "42") is None


@pytest.mark.parametrize(
    ("completion", "answer", "passed"),
    [
        (r"\boxed{.5}", "5", False),
        (r"\boxed{.75}", "75", False),
        (r"\boxed{$.50}", "50", False),
        (r"\boxed{.5}", "0.5", True),
        (r"\boxed{5.}", "5", True),
        (r"\boxed{18.90}", r"\$18.90", True),
        (r"\boxed{19.90}", r"\$18.90", False),
        (r"\boxed{32348}", r"\$32,\!348", True),
        (r"\boxed{\$32,348}", r"\$32,\!348", True),
        (r"\boxed{\$12}", r"\$12", True),
        (r"\boxed{5}", r"\text{\$}5", True),
        (r"It costs \$12.", "12", True),
        (r"\boxed{\Gamma}", r"\gamma", False),
        (r"\boxed{X}", "x", False),
        (r"\boxed{\text{YES}}", "yes", True),
        (r"\boxed{Two Apples}", r"\text{two apples}", True),
        (r"\boxed{(a)}", "A", True),
        (r"\boxed{a}", "A", True),
        (r"\boxed{-$5}", "-5", True),
        ("", ".", False),
        (r"\boxed{}", r"\boxed{}", False),
        (r"\boxed{$}", "$", False),
        (r"\boxed{10^{-7}}", 1e-7, True),
        (r"\boxed{0.0000001}", 1e-7, True),
        (r"\boxed{0.0000002}", 1e-7, False),
        (r"\boxed{0.0000002}", "0.0000001", False),
        (r"\boxed{e-7}", 1e-7, False),
        (r"\boxed{150000000000000000000}", 1.5e20, True),
        (r"\boxed{1.5e2}", "150", True),
        (r"\boxed {5}", "5", True),
        ("\\boxed\n{5}", "5", True),
        (r"\fbox{5}", "5", True),
        (r"<think>\boxed{6}</think> The answer is 5", "5", True),
        (r"<think>\boxed{5}</think> The answer is 6", "5", False),
        (r"\boxed{10\,000}", "10000", True),
        (r"\boxed{10{,}000}", "10000", True),
        (r"\boxed{(1,\,234)}", "(1, 234)", True),
        (r"\boxed{90°}", "90", True),
        (r"\boxed{5~\text{km}}", "5", True),
        (r"\boxed{12.5\%}", "12.5", True),
        (r"\boxed{12.5}", r"12.5 \%", True),
        (r"\boxed{0.0005}", r"0.05\%", True),
        (r"\boxed{€18}", "18", True),
        (r"\boxed{£18}", "18", True),
        (r"\boxed{1.6 \times 10^{-19}}", "1.6e-19", True),
        (r"\boxed{1.7 \times 10^{-19}}", "1.6e-19", False),
        (r"\boxed{1.6 \times 10^{-21}}", "1.6e-19", False),
        (r"\boxed{-1.6 \times 10^{-19}}", "1.6e-19", False),
        (r"\boxed{0.0}", "1.6e-19", False),
        (r"\boxed{\frac{1}{10^{20}}}", "1.6e-19", False),
        (r"\boxed{10^{-16}\sqrt{2}}", r"10^{-16}\sqrt{3}", False),
        (r"\boxed{2516_7}", "2516_8", False),
        (r"\boxed{2516_{7}}", "$2516_8$", False),
        (r"\boxed{2515_8}", "2516_8", False),
        (r"\boxed{02516_{\text{8}}}", "2516_8", True),
        (r"\boxed{2516}", "2516_8", True),
        (r"\boxed{\frac{1}{2000}}", r"0.0005", True),
        (r"\boxed{.5\%}", "0.5", True),
        (r"\boxed{\varnothing}", r"\emptyset", True),
        (r"\boxed{\textrm{yes}}", "yes", True),
        (r"\boxed{\text{\textit{Yes}}}", "yes", True),
        (r"\boxed{10,100}", "10, 100", True),
        (r"\boxed{100, 200}", "100,200", True),
        (r"\boxed{3,100}", "3, 100", True),
        (r"\boxed{3,\ 100}", "3,100", True),
        (r"\boxed{3,101}", "3, 100", False),
        (r"\boxed{\text{A, B}}", "A,B", True),
        (r"\boxed{1,234}", "1.234", False),
        (r"\boxed{5 \text{ feet } 3 \text{ inches}}", r"5 \text{ feet } 4 \text{ inches}", False),
        (r"\boxed{5 \text{ feet } 4.0 \text{ inches}}", r"5 \text{ feet } 4 \text{ inches}", True),
        (r"\boxed{3 \text{ or } 5}", r"5 \text{ or } 3", True),
        (r"\boxed{5 \text{ cm}}", "5", True),
        (r"\boxed{2:30 \text{ p.m.}}", r"2:30 \text{ a.m.}", False),
        (r"\boxed{2:30 \text{ p.m.}}", r"2:30 \text{ p.m.}", True),
    ],
)
def test_how_answers_may_be_written(completion: str, answer: object, passed: bool) -> None:
    [verdict] = grade_math([completion], [answer])
    assert verdict.passed == passed, verdict.reason


@pytest.mark.parametrize(
    "seven",
    [
        "2516_7",
        "2516_ 7",
        "2516 _7",
        "2516_{7}",
        "2516_{(7)}",
        "x = 2516_7",
        "(2516_7)",
        "$2516_7$",
        "+2516_7",
    ],
)
def test_bases_count_however_they_are_written(seven: str) -> None:
    answers = ["2516_7", "2516_8", "2515_7", "-2516_7"]
    assert [compare_text(rf"\boxed{{{seven}}}", answer) for answer in answers] == [True, False, False, False]
    assert [compare_text(rf"\boxed{{{answer}}}", seven) for answer in answers] == [True, False, False, False]


@pytest.mark.parametrize(
    ("given", "expected", "equal"),
    [
        ("-2516_7", "-2516_8", False),
        ("-2516_8", "-02516_{8}", True),
        ("A1_{16}", "A1_{12}", False),
        ("A1_{16}", "A1_{(16)}", True),
        ("12_3, 13_4", "12_4, 13_5", False),
        ("(12_3,13_4)", "(12_3, 13_{4})", True),
        ("13_4, 12_3", "12_3, 13_4", None),  # the order is left to mathematics
        ("2516", "2516_8", None),
    ],
)
def test_signs_letters_and_lists_of_numbers_with_bases(given: str, expected: str, equal: bool | None) -> None:
    assert compare_text(rf"\boxed{{{given}}}", expected) is equal


def test_escaped_braces_are_no_braces() -> None:
    cases = r"f(x)=\left\{\begin{array}{ll} x & x>0 \\ 0 & x\le 0\end{array}\right."
    for answer in (cases, r"\{1,2\}", "5" + 2 * "\\", r"\}", r"{\{}"):
        assert last_boxed(rf"so \boxed{{{answer}}} and {{more}}") == answer
    assert compare_text(rf"\boxed{{{cases}}}", cases) is True


def test_long_white_space_is_compared_like_any_other() -> None:
    assert compare_text("5" + " " * 10**6 + "x", "5") is None
    assert compare_text("5" + " " * 10**6 + r"\%", "5") is True
