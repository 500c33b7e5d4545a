"""Programs that forge their answers to the tests, or change what grades them: none of them passes."""

import pytest
from sandbox.sandboxes import SMALL, needs_bubblewrap

from effopd.grading import grade_code

pytestmark = [needs_bubblewrap, pytest.mark.usefixtures("nothing_left")]

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
