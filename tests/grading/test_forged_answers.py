"""Programs that forge their answers to the tests, or change what grades them: none of them passes."""

import pytest
from sandbox.sandboxes import SMALL, needs_bubblewrap

from effopd.grading import grade_code

pytestmark = [needs_bubblewrap, pytest.mark.usefixtures("nothing_left")]

FORM = "an answer that is not in the form of one"
SORTED = "a = [3, 1, 2]\nassert f(a) == sorted(a)"
CALL = "f(3)\nassert True"
CATCH = "try: f(3)\nexcept (ValueError, IndexError): pass\nassert True"
SQUARE = {"unit": "assert square(2) == 4\nassert square(-3) == 9\n"}


@pytest.mark.parametrize(
    "program",
    [
        'import json\njson.dumps = lambda *a, **k: \'{"kind": "passed", "value": null}\'\ndef square(x): return 7',
        "import json\njson.dumps = lambda *a, **k: '[4]'\ndef square(x): return 7",
        'import json\njson.dumps = lambda *a, **k: \'{"value": {"array": ["O", [4], [1]]}}\'\ndef square(x): return 7',
        'import json\njson.dumps = lambda *a, **k: \'{"value": {"array": ["i8"]}}\'\ndef square(x): return 7',
        'import json\njson.dumps = lambda *a, **k: \'{"raised": ["KeyError"], "text": {}}\'\ndef square(x): return 7',
        "def square(x): return float('nan')",
        "class I(int):\n    __index__ = lambda self: 4\n    __eq__ = lambda *a: True\ndef square(x): return I(7)",
        "class E(Exception):\n    def __str__(self): raise SystemExit(0)\ndef square(x): raise E",
        "class _Abort(BaseException): pass\ndef square(x): raise _Abort('passed')",
        "class SkipTest(Exception): pass\ndef square(x): raise SkipTest",
        "import os\nfor fd in range(3, 12):\n    try: os.write(fd, b'-0000001')\n    except OSError: pass\n"
        "def square(x): return 7",
    ],
)
def test_no_answer_passes_for_another(program: str) -> None:
    [verdict] = grade_code([f"```python\n{program}\n```"], [SQUARE], limits=SMALL)
    assert not verdict.passed
    assert verdict.reason


@pytest.mark.parametrize("path", ["sandbox/inside/launch.py", "grading/inside/harness.py"])
def test_what_grades_cannot_be_written(path: str) -> None:
    program = f"def square(x):\n    open('/sandbox/library/effopd/{path}', 'r+')\n    return x * x"
    [verdict] = grade_code([f"```python\n{program}\n```"], [SQUARE], limits=SMALL)
    assert verdict.kind == "runtime error"
    assert "Permission denied" in verdict.detail or "Read-only file system" in verdict.detail


@pytest.mark.parametrize(
    ("value", "forgery", "tests", "reason"),
    [
        ("[]", "answer['arguments'] = [{'list': []}]", SORTED, FORM),
        ("1 / 0", "answer['arguments'] = [{'list': []}]", SORTED, FORM),
        ("None", "answer['arguments'] = []", CALL, FORM),
        ("None", "answer['arguments'] = [{'list': []}]", CALL, "an argument that changed its type"),
        ("None", "answer['arguments'] = [{'tuple': []}]", SORTED, "an argument that changed its type"),
        ("None", "del answer['arguments']", CALL, FORM),
        ("None", "del answer['value']", CALL, FORM),
        ("7", "answer['printed'] = '7'", CALL, FORM),
        ("7", "answer['exception'] = 7", CALL, FORM),
        ("7", "answer = 7", CALL, FORM),
        ("7", "answer = {'raised': ['ValueError'], 'text': {}}", CATCH, FORM),
        ("7", "answer['value'] = {'array': ['i8']}", CATCH, "a value that cannot be read"),
    ],
)
def test_only_answers_in_the_form_of_one_are_believed(value: str, forgery: str, tests: str, reason: str) -> None:
    program = f"""
import effopd.grading.inside.candidate as candidate
original = candidate._Objects.answer
def forged(self, operation, *others):
    answer = original(self, operation, *others)
    if operation == "call": {forgery}
    return answer
candidate._Objects.answer = forged
def f(a): return {value}
"""
    [verdict] = grade_code([f"```python\n{program}\n```"], [{"unit": tests}], limits=SMALL)
    assert not verdict.passed
    assert verdict.reason.startswith(f"runtime error: {reason}")


@pytest.mark.parametrize(
    ("tests", "kind"),
    [
        ("np.testing.assert_allclose(f(1), [1, 2, 3])", "unsupported"),
        ("assert f(1).__array_interface__['shape'] == (3,)", "runtime error"),
    ],
)
def test_special_attributes_of_objects_are_not_believed(tests: str, kind: str) -> None:
    program = (
        "class A:\n    __array_interface__ = {'shape': (3,), 'typestr': '<f8', 'data': (16, True), 'version': 3}\n"
        "def f(x): return A()"
    )
    [verdict] = grade_code([f"```python\n{program}\n```"], [{"unit": tests}], limits=SMALL)
    assert verdict.kind == kind
    assert "exit status" not in verdict.reason
