"""Programs against their tests: what passes, what does not, and what cannot be faked."""

import json
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest
from sandbox.sandboxes import BRIEF, SMALL, hangs_are_short, needs_bubblewrap

from effopd.errors import DataError, UnsupportedError
from effopd.grading import Verdict, grade_code, parse_tests
from effopd.grading.programs import iterate_code_verdicts
from effopd.sandbox import Limits, run_program
from effopd.training.rewards import code_reward, resolve_rewards

ADD = {"stdin": [{"input": "1 2\n", "output": "3\n"}, {"input": "5 -5\n", "output": "0"}]}
SQUARE = {"unit": "assert square(2) == 4\nassert square(-3) == 9\n"}


def grade(program: str, tests: Any, **keywords: Any) -> Verdict:
    [verdict] = grade_code([f"```python\n{program}\n```"], [tests], **{"limits": SMALL} | keywords)
    return verdict


def limits_for(reason: str) -> Limits:
    return BRIEF if "time limit" in reason else SMALL


@needs_bubblewrap
@pytest.mark.usefixtures("nothing_left")
class TestInTheSandbox:
    @pytest.mark.parametrize(
        ("program", "reason"),
        [
            ("print(sum(map(int, input().split())))", "passed"),
            ("a, b = input().split()\nprint(f'\\n  {int(a) + int(b)}  \\n\\n')", "passed"),
            ("print(sum(map(int, input().split())))\nraise SystemExit(0)", "passed"),
            ("print(sum(map(int, input().split())))\nraise SystemExit(1)", "runtime error: case 1, exit status 1"),
            ("print(3)", "wrong answer: case 2"),
            ("print(3.0)", "wrong answer: case 1"),
            ("1 / 0", "runtime error: case 1, exit status 1: ZeroDivisionError: division by zero"),
            ("import os\nos._exit(0)", "wrong answer: case 1"),
            ("print('passed')\nprint('{\"kind\": \"passed\"}')", "wrong answer: case 1"),
            ("while True: pass", "time limit: case 1"),
            ("x = []\nwhile True: x.append(bytearray(b'1') * 2**24)", "memory limit: case 1"),
            ("x = bytearray(2**32)", "memory limit: case 1"),
            ("while True: print(3)", "output limit: case 1"),
            ("", "no code"),
        ],
    )
    def test_stdin(self, program: str, reason: str) -> None:
        verdict = grade(program, ADD, limits=limits_for(reason))
        assert verdict.reason == reason
        assert verdict.passed == (reason == "passed")
        assert verdict.seconds >= 0

    def test_limits_of_the_tests_come_before_others(self) -> None:
        slow = "import time\nstop = time.process_time() + 0.6\nwhile time.process_time() < stop: pass\nprint(3)"
        case = {"stdin": [{"input": "", "output": "3"}]}
        assert grade(slow, case, limits=BRIEF).kind == "time limit"
        assert grade(slow, case | {"time_limit_s": 30}, limits=BRIEF).passed
        assert grade("x = bytearray(400 * 2**20)\nprint(3)", case | {"memory_limit_mb": 600}).passed
        assert grade("x = bytearray(400 * 2**20)\nprint(3)", case).kind == "memory limit"

    @pytest.mark.parametrize(
        ("program", "tests"),
        [
            ("def square(x): return x * x", SQUARE["unit"]),
            ("square = lambda x: x ** 2\nprint('loud')", SQUARE["unit"]),
            ("def has(a): return False", "def check(candidate):\n    assert candidate([1.0]) == False\ncheck(has)"),
            ("def f(): return 3", "from solution import f\ndef test_f():\n    assert f() == 3"),
            ("class Solution:\n    def two(self, a): return [0, 1]", "assert Solution().two(a=[1]) == [0, 1]"),
            ("def f(x): x.sort()", "a = [3, 1]\nf(a)\nassert a == [1, 3]"),
            ("def f(n): yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
            ("from collections import Counter\nf = Counter", "assert f('aab') == {'a': 2, 'b': 1}"),
            (
                "def f(x):\n    if x < 0: raise ValueError('negative')\n    return x",
                "try:\n    f(-1)\n    assert False\nexcept ValueError as error:\n    assert 'neg' in str(error)\n"
                "assert f(1) == 1",
            ),
            (
                "class Bad(ValueError): pass\ndef f(): raise Bad('x')",
                "import unittest\nclass T(unittest.TestCase):\n"
                "    def test_f(self):\n        self.assertRaises(Bad, f)\n"
                "        self.assertRaises(ValueError, f)",
            ),
            (
                "class Node:\n    def __init__(self, v): self.v, self.next = v, None\n"
                "def turn(h):\n    p = None\n    while h: h.next, p, h = p, h, h.next\n    return p",
                "a = Node(1)\na.next = Node(2)\nb = turn(a)\nassert b.v == 2 and b.next.v == 1 and b.next.next is None",
            ),
            ("def sum(a, b): return 6", "assert sum(10, 15) == 6"),  # as in MBPP: named as a built-in function
            ("def f(x): return 10**5000, {(1, 2): {3}, None: b'x', 1.5: 1j}", "r = f(0)\nassert r[0] == 10**5000\n"
             "assert r[1] == {(1, 2): {3}, None: b'x', 1.5: 1j}"),
            ("import numpy as np\ndef f(n): return np.arange(n) * 1.0", "assert np.allclose(f(3), [0, 1, 2])"),
            ("import math\ndef f(x): return x / 3", "assert math.isclose(f(1), 1 / 3)"),
            ("def f(x): return x", "if __name__ == '__main__':\n    raise RuntimeError\nassert f(1) == 1"),
            ("def f(x): return x\nif __name__ == '__main__':\n    input()", "assert f(1) == 1"),
            ("def f():\n    print('hi')\n    return 1", "import contextlib, io\nb = io.StringIO()\n"
             "with contextlib.redirect_stdout(b): r = f()\nassert (r, b.getvalue()) == (1, 'hi\\n')"),
            ("def f(n):\n    for i in range(n):\n        print(i)\n        yield i", "import io, sys\n"
             "sys.stdout = io.StringIO()\nassert list(f(2)) == [0, 1]\nassert sys.stdout.getvalue() == '0\\n1\\n'"),
            ("def f(t): return t, t.date(), t.timetz(), t - t.replace(year=2)", "from datetime import *\n"
             "t = datetime(3, 1, 2, 3, 4, 5, 6, timezone(timedelta(hours=1)))\n"
             "assert f(t) == (t, date(3, 1, 2), t.timetz(), timedelta(days=365))"),
        ],
    )  # fmt: skip
    def test_right_functions_pass_their_unit_tests(self, program: str, tests: str) -> None:
        assert grade(program, {"unit": tests}).reason == "passed"

    @pytest.mark.parametrize(
        ("program", "kind"),
        [
            ("def square(x): return x", "wrong answer"),
            ("def square(x): return str(x * x)", "wrong answer"),
            ("def sqare(x): return x * x", "runtime error"),
            ("def square(x) return x", "runtime error"),
            ("def square(x): return input()", "runtime error"),
            ("def square(x):\n    while True: pass", "time limit"),
            ("def square(x):\n    y = []\n    while True: y.append(bytearray(b'1') * 2**24)", "memory limit"),
            ("def square(x): return 'x' * 40 * 2**20", "unsupported"),
            ("import numpy as np\ndef square(x): return np.ones(2, np.longdouble)", "unsupported"),
            ("def square(x):\n    a = []\n    a.append(a)\n    return a", "unsupported"),
        ],
    )
    def test_wrong_functions_fail(self, program: str, kind: str) -> None:
        verdict = grade(program, SQUARE, limits=limits_for(kind))
        assert (verdict.passed, verdict.kind) == (False, kind), verdict.reason

    @pytest.mark.parametrize(
        "program",
        [
            "import os\nos._exit(0)",
            "import sys\nsys.exit(0)",
            "import atexit, os\natexit.register(lambda: os._exit(0))",
            "def square(x): raise SystemExit(0)",
            "def square(x):\n    import os\n    os._exit(0)",
            "import builtins\nbuiltins.AssertionError = builtins.ValueError = int\ndef square(x): return 0",
            "class Equal:\n    def __eq__(self, other): return True\ndef square(x): return Equal()",
            "class Equal(int):\n    def __eq__(self, other): return True\ndef square(x): return Equal(7)",
            "class Equal(float):\n    __eq__ = lambda self, other: True\n    __module__ = 'builtins'\nsquare = Equal",
            "def square(x): raise StopIteration",
            "import sys\ndef square(x): return sys._getframe(1)",
            # the success marker of the harness, to wherever it may go
            'import os\nfor number in range(1, 64):\n    try: os.write(number, b\'{"kind": "passed", "detail": ""}\')\n'
            "    except OSError: pass\ndef square(x): return 7",
            # answers ahead of the questions
            "import os\nfor number in range(3, 64):\n    for value in ('null', '{\"reference\": 9}', '7', 'true'):\n"
            "        data = ('{\"value\": %s}' % value).encode()\n"
            "        try: os.write(number, b'%08x' % len(data) + data)\n        except OSError: pass\n"
            "def square(x): return 7",
            "import os\nfor number in (4, 5, 6, 7):\n    try: os.write(number, b'ffffffff' + b'x' * 100)\n"
            "    except OSError: pass\ndef square(x): return 7",
        ],
    )
    def test_success_cannot_be_faked(self, program: str) -> None:
        verdict = grade(program, SQUARE)
        assert not verdict.passed
        assert verdict.reason

    @pytest.mark.parametrize(
        ("program", "tests"),
        [
            (
                "all = any = lambda x: True\nabs = lambda x: 0\ndef f(x): return 9",
                "assert all(f(x) == 1 for x in (1, 2))",
            ),
            ("abs = lambda x: 0\ndef f(x): return 9", "assert abs(f(1) - 1) < 0.1"),
            ("class math:\n    isclose = lambda *a: True\ndef f(x): return 9", "assert math.isclose(f(1), 2)"),
            ("class np:\n    allclose = lambda *a: True\ndef f(x): return 9", "assert np.allclose(f(1), 2)"),
            ("def isclose(*a): return True\ndef f(x): return 9", "assert isclose(f(1), 2)"),
            ("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))"),
            (
                "class A:\n    __sub__ = lambda *a: 0.0\n    __abs__ = lambda a: 0.0\n    __lt__ = lambda *a: True\n"
                "def f(x): return A()",
                "assert abs(f(1) - 2) < 1",
            ),
            ("class A:\n    __contains__ = lambda *a: True\ndef f(x): return A()", "assert 5 in f(1)"),
            ("class A:\n    pass\ndef f(x): return A()", "assert f(1)"),
            ("def abs(x): return 0\ndef f(x): return 9", "from solution import f\nassert abs(f(1) - 1) < 0.1"),
            ("def all(x): return True\ndef f(x): return 9", "import solution\nassert all([solution.f(1) == 1])"),
            (
                "def set(x): return 0\ndef f(x): return 9",
                "import unittest\nfrom solution import f\nclass T(unittest.TestCase):\n"
                "    def test_f(self): self.assertEqual(set([f(1)]), set([1]))",
            ),
            ("def f(x):\n    x.clear()\n    return []", "x = [3, 1]\nassert f(x) == sorted(x)"),
            ("import os\ndef f(x): os._exit(0)", "try:\n    f(1)\nexcept BaseException:\n    pass\nassert 1 == 1"),
            ("def f(x): return 1", "import os\nf(1)\nos._exit(0)\nassert False"),
            ("def f(x): return 1", "def test_f(argument):\n    assert f(1) == 2"),
        ],
    )
    def test_tests_are_not_led_astray(self, program: str, tests: str) -> None:
        verdict = grade(program, {"unit": tests})
        assert not verdict.passed
        assert verdict.reason

    def test_what_cannot_cross_is_said(self) -> None:
        assert "a function of the tests is no plain data" in grade("def f(g): return g(2)", {
            "unit": "assert f(lambda x: x) == 2"
        }).reason  # fmt: skip
        assert grade("def f(): return 'x' * (17 * 2**20)", {"unit": "assert len(f()) == 3"}).reason == (
            "unsupported: values of 17 MiB at a time; at most 16 can pass"
        )

    @pytest.mark.parametrize(
        "tests",
        [
            "assert f() == P()",
            "assert isinstance(f(), P)",
            "assert issubclass(int, P)",
            "assert f() + 1 == 2",
            "assert 1 - f() == 2",
            "assert f() < P()",
            "assert {f()} and 1",
            "with f() as x: assert x == 1",
            "class D(P): pass\nassert D().x == 1",
        ],
    )
    def test_objects_of_the_program_decide_nothing(self, tests: str) -> None:
        program = (
            "class P:\n    x = 1\n    __eq__ = __lt__ = lambda *a: True\n    __hash__ = lambda self: 1\n"
            "    __add__ = __rsub__ = lambda *a: 2\n    __enter__ = lambda self: 1\n"
            "    __exit__ = lambda *a: None\nf = P"
        )
        assert grade(program, {"unit": tests}).kind == "unsupported"

    @pytest.mark.parametrize(
        "program",
        [
            "import os\nfor _ in range(3):\n    os.fork()\ndef square(x): return 7",
            "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)\ndef square(x): return 7",
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\ndef square(x): return 7",
            "import os, signal\ndef square(x): os.kill(os.getppid(), signal.SIGKILL); os.kill(-1, signal.SIGKILL)",
            "import time\ntime.sleep(600)",
        ],
    )
    def test_what_a_function_leaves_behind_ends(self, program: str, monkeypatch: pytest.MonkeyPatch) -> None:
        hangs_are_short(monkeypatch)
        assert not grade(program, SQUARE).passed

    def test_many_at_a_time_and_in_order(self) -> None:
        kinds = {
            "def square(x): return x * x": "passed",
            "def square(x): return x + x": "wrong answer",
            "import os; os._exit(0)": "runtime error",
            "while True: pass": "time limit",
        }
        programs = [f"```python\n{program}\n```" for program in kinds]
        tests = [SQUARE | ({"time_limit_s": BRIEF.time_s} if kind == "time limit" else {}) for kind in kinds.values()]
        verdicts = grade_code(programs * 3, tests * 3, workers=6, limits=SMALL)
        assert [verdict.kind for verdict in verdicts] == [*kinds.values()] * 3

    def test_leaving_early_does_not_wait_for_what_runs(self) -> None:
        endless = "import time; time.sleep(600)"
        limits = Limits(time_s=1000)
        verdicts = iterate_code_verdicts(
            ["x = 1", endless, endless], [parse_tests(SQUARE)] * 3, limits=limits, workers=3
        )
        assert not next(verdicts).passed
        verdicts.close()  # type: ignore[attr-defined]
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("effopd-grade")]

    def test_it_is_a_reward_of_training(self) -> None:
        [reward] = resolve_rewards("code")
        assert reward is code_reward
        completions: list[Any] = ["def square(x): return x * x", [{"role": "assistant", "content": "square = abs"}]]
        assert reward(completions, tests=[SQUARE, json.dumps(SQUARE)], prompts=["?", "?"]) == [1.0, 0.0]

    def test_conversations_are_judged_by_their_last_message(self) -> None:
        messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "def square(x): return x * x"}]
        assert grade_code([messages], [SQUARE], limits=SMALL)[0].passed


def test_without_bubblewrap_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"bubblewrap.*Install.*--unsafe"):
        run_program("print(1)")
    for tests in (ADD, SQUARE):
        with pytest.raises(UnsupportedError, match="bubblewrap"):
            grade("print(1)", tests)


def test_bubblewrap_that_does_not_work_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/bin/false")
    with pytest.raises(UnsupportedError, match="bubblewrap does not work here"):
        run_program("print(1)")


def test_unsafe_warns_and_needs_no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.warns(UserWarning, match="without a sandbox"):
        assert run_program("print(input())", stdin="x", unsafe=True, limits=SMALL).stdout == b"x\n"
    with pytest.warns(UserWarning, match="without a sandbox"):
        assert grade("def square(x): return x * x", SQUARE, unsafe=True).passed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert grade("while True: pass", ADD, unsafe=True, limits=BRIEF).kind == "time limit"
        assert (
            grade("import os\nif os.fork() == 0:\n    while True: pass\nprint(3)", ADD, unsafe=True).kind
            == "wrong answer"
        )


def test_nothing_runs_if_any_tests_are_wrong() -> None:
    with pytest.raises(DataError, match="neither"):
        grade_code(["x", "y"], [ADD, {}])
    with pytest.raises(ValueError, match="zip"):
        grade_code(["x", "y"], [ADD])
