"""More attacks on the sandbox and on what compares."""

import json
import platform
from dataclasses import replace

import pytest
from sandboxes import SMALL, needs_bubblewrap

from effopd.evaluation import grade_code, run_program

pytestmark = [needs_bubblewrap, pytest.mark.usefixtures("nothing_left")]

SQUARE = {"unit": "assert square(2) == 4\nassert square(-3) == 9\n"}


def test_files_count_as_memory() -> None:
    program = "open('/tmp/x', 'wb').write(b'x' * (80 * 2**20))\nx = bytearray(b'1') * (60 * 2**20)\nwhile True: pass"
    outcome = run_program(program, limits=replace(SMALL, memory_mb=128, file_mb=100))
    assert outcome.ended == "memory"


def test_system_calls_that_make_name_spaces_are_refused_however_they_are_made() -> None:
    clone = {"x86_64": 56, "aarch64": 220}[platform.machine()]
    program = f"""
import ctypes, json, platform
call = ctypes.CDLL(None, use_errno=True).syscall
errors = []
for number, *arguments in [({clone}, 0x10000000 | 17, 0, 0, 0, 0), ({clone}, 0x20000000 | 17, 0, 0, 0, 0)]:
    if call(number, *arguments) == 0:
        raise SystemExit("in a child")
    errors.append(ctypes.get_errno())
if platform.machine() == "x86_64":  # the second set of numbers for the same calls
    errors.append(ctypes.get_errno() if call(0x40000000 | 39) < 0 else 0)
print(json.dumps(errors))
"""
    assert set(json.loads(run_program(program, limits=SMALL).stdout)) == {1}


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
