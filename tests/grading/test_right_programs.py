"""Programs that are right and written as people write them: they have to pass."""

from typing import Any

import pytest
from sandbox.sandboxes import SMALL, needs_bubblewrap

from effopd.grading import grade_code

pytestmark = needs_bubblewrap

DEEP = """
import sys
from functools import lru_cache
sys.setrecursionlimit(10**6)
@lru_cache(None)
def depth(n): return 0 if n == 0 else 1 + depth(n - 1)
print(depth(9000 if sys.version_info >= (3, 12) else 40000) > 0)
"""
STACK = """
import resource, sys, threading
resource.setrlimit(resource.RLIMIT_STACK, (2**28, resource.RLIM_INFINITY))
threading.stack_size(2**27)
thread = threading.Thread(target=lambda: print(True))
thread.start()
thread.join()
"""
HEAD = "import unittest\nclass T(unittest.TestCase):\n    def test(self): self.assertEqual(f(2), 3)\n"


def reason(program: str, tests: dict[str, Any]) -> str:
    return grade_code([f"```python\n{program}\n```"], [tests], limits=SMALL)[0].reason


@pytest.mark.parametrize(
    ("program", "given", "expected"),
    [
        (DEEP, "", "True"),
        (STACK, "", "True"),
        ("print([line.rstrip('\\n') for line in open(0)])", "ab\r\nc\r\n", "['ab', 'c']\r\n"),
        ("print(repr(input()))", "ab\r\n", "'ab'"),
        ("import os\nprint(os.read(0, os.fstat(0).st_size).split())", "1 2", "[b'1', b'2']"),
        ("def main():\n    print(open('/dev/stdin').read())\nif __name__ == '__main__':\n    main()", "7", "7"),
    ],
)
def test_that_read_and_print(program: str, given: str, expected: str) -> None:
    assert reason(program, {"stdin": [{"input": given, "output": expected}]}) == "passed"


@pytest.mark.parametrize(
    ("program", "tests"),
    [
        ("def f(x): return x + 1", f"{HEAD}unittest.main()"),
        ("def f(x): return x + 1", f"{HEAD}f(0)\nunittest.main(argv=['tests'], exit=False)"),
        ("def f(x, items): items.sort()", "a = [2, 1]\nf(0, items=a)\nassert a == [1, 2]"),
        ("import numpy as np\ndef f(): return np.longdouble(1) / 2", "assert f() == 0.5"),
        ("def f(self, value): return value", "assert f(self=1, value=2) == 2"),
        ("def f(): return {}['a']", "try: f()\nexcept KeyError as e: assert (str(e), e.args) == (\"'a'\", ('a',))"),
        ("def f(): return {}[5]", "try: f()\nexcept KeyError as e: assert (str(e), e.args) == ('5', (5,))"),
        ("def f(): return {}[1, 2]", "try: f()\nexcept KeyError as e: assert '(1, 2)' in str(e)"),
        ("def f(): raise KeyError", "try: f()\nexcept KeyError as e: assert 'f' not in str(e)"),
        ("def f(a): pass", "row = [1]\na = [row]\nf(a)\nassert a[0] is row"),
        ("class S(list):\n    def top(self): return self[-1]", "s = S()\ns.append(3)\nassert s.top() == 3"),
        (
            "class S:\n    def __init__(self): self.x = [1, 2]\n    def __len__(self): return 2\n"
            "    def __getitem__(self, i): return self.x[i]\n    def __str__(self): return 'S!'",
            "s = S()\nassert (len(s), s[1], str(s), list(s)) == (2, 2, 'S!', [1, 2])\n"
            "assert np.allclose(s, [1, 2])\nassert vars(s) == {'x': [1, 2]}\nassert S.__name__ == 'S'",
        ),
        ("def f(x): return x", HEAD.replace("    def", "    @unittest.expectedFailure\n    def")),
        ("import numpy as np\ndef f(): return np.float32(0.5)", "assert f() == 0.5"),
        ("import numpy as np\ndef f(): return np.zeros((0, 3))", "assert f().shape == (0, 3)"),
        ("import numpy as np\ndef f(): return np.ones((2, 3))", "assert f().tolist() == [[1.0] * 3] * 2"),
    ],
)
def test_that_define_functions(program: str, tests: str) -> None:
    assert reason(program, {"unit": tests}) == "passed"


def test_tests_that_run_themselves_are_run() -> None:
    assert reason("def f(x): return x", {"unit": f"f(1)\n{HEAD}unittest.main()"}).startswith("wrong answer")


def test_a_failure_that_is_expected_and_does_not_come_is_one() -> None:
    tests = HEAD.replace("    def", "    @unittest.expectedFailure\n    def")
    assert reason("def f(x): return x + 1", {"unit": tests}) == "wrong answer: a test passed that should not"
