"""More attacks on the sandbox."""

import json
import platform
from dataclasses import replace

import pytest
from sandbox.sandboxes import SMALL, needs_bubblewrap

from effopd.sandbox import run_program

pytestmark = [needs_bubblewrap, pytest.mark.usefixtures("nothing_left")]


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
