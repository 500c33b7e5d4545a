"""Final answers: what equals what is in tests/training/test_rewards.py; here, what must not cost more than itself."""

import os
import signal
import threading
from pathlib import Path

import pytest

from effopd.errors import UnsupportedError
from effopd.evaluation import grade_math
from effopd.evaluation.math_text import compare_text
from effopd.evaluation.workers import Reply, WorkerPool

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
        (r"\boxed{\frac{1}{2000}}", r"0.0005", True),
    ],
)
def test_how_answers_may_be_written(completion: str, answer: object, passed: bool) -> None:
    [verdict] = grade_math([completion], [answer])
    assert verdict.passed == passed, verdict.reason


WORKER = """
import json, os, sys, time
print('"ready"', flush=True)
for line in sys.stdin:
    task = json.loads(line)
    if task == "die":
        os._exit(1)
    if task == "hang":
        while True:
            pass
    print(json.dumps(task), flush=True)
"""


@pytest.fixture
def pool(tmp_path: Path) -> WorkerPool:
    (tmp_path / "worker.py").write_text(WORKER)
    return WorkerPool(tmp_path / "worker.py", [], 2)


def summary(replies: list[Reply]) -> list[object]:
    return [reply.lost or reply.value for reply in replies]


def test_workers_are_replaced(pool: WorkerPool) -> None:
    tasks = [1, "die", 2, "hang", "die", 3, "x" * 200_000, 4]
    replies = list(pool.map(tasks, 1.0))
    assert summary(replies) == [1, "crashed", 2, "time", "crashed", 3, "x" * 200_000, 4]
    assert summary(list(pool.map([5, 6], 1.0))) == [5, 6]
    assert list(pool.map([], 1.0)) == []
    pool.close()


def test_a_worker_that_is_killed_from_outside_is_replaced(pool: WorkerPool) -> None:
    assert summary(list(pool.map([1, 2], 5.0))) == [1, 2]
    for worker in pool._workers:
        os.kill(worker._process.pid, signal.SIGKILL)
        worker._process.wait()
    assert summary(list(pool.map([1, 2, 3], 5.0))) == [1, 2, 3]
    pool.close()


def test_leaving_early_ends_busy_workers(pool: WorkerPool) -> None:
    while sum(worker.ready for worker in pool._workers) < 2:
        list(pool.map([1, 2], 60.0))
    replies = pool.map([1, "hang", "hang"], 600.0)
    assert next(replies).value == 1
    busy = [worker for worker in pool._workers if worker.task is not None]
    replies.close()  # type: ignore[attr-defined]
    assert busy
    assert not any(worker.is_alive() for worker in busy)
    assert not [worker for worker in pool._workers if worker.task is not None]
    pool.close()


def test_workers_that_do_not_start_are_an_error(tmp_path: Path) -> None:
    pool = WorkerPool(tmp_path / "missing.py", [], 1)
    with pytest.raises(UnsupportedError, match=r"does not start.*missing\.py"):
        list(pool.map([1], 1.0))
    pool.close()
