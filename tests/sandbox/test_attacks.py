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


@pytest.mark.parametrize("file", [-1, "/dev/zero"])
def test_shared_memory_that_stays_after_its_mapping_does_not_go_uncounted(file: int | str) -> None:
    program = f"""
import mmap, os
kept = []
for _ in range(6):
    kept.append(mmap.mmap(-1 if {file!r} == -1 else os.open({file!r}, os.O_RDWR), 50 * 2**20))
    for start in range(0, 50 * 2**20, 2**20):
        kept[-1][start:start + 2**20] = bytes(2**20)
    kept[-1].resize(4096)
"""
    outcome = run_program(program, limits=replace(SMALL, memory_mb=128))
    refused = any(error in outcome.stderr for error in (b"PermissionError", b"No such device"))
    assert outcome.ended == "memory" or (refused and outcome.exit_code == 1), outcome


def test_what_needs_no_shared_anonymous_memory_works() -> None:
    program = """
import mmap, multiprocessing
def add(n, total, queue):
    with total.get_lock():
        total.value += n
    queue.put(n)
if __name__ == "__main__":
    total, array, queue = multiprocessing.Value("i", 0), multiprocessing.Array("d", 4), multiprocessing.SimpleQueue()
    children = [multiprocessing.Process(target=add, args=(n, total, queue)) for n in (1, 2)]
    for each in children: each.start()
    for each in children: each.join()
    private = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    print(total.value, sorted(queue.get() for _ in children), list(array), len(private))
    print(open("/dev/zero", "rb").read(2))
"""
    outcome = run_program(program, limits=SMALL)
    assert outcome.stdout.decode() == "3 [1, 2] [0.0, 0.0, 0.0, 0.0] 4096\nb'\\x00\\x00'\n", outcome.stderr


def test_children_that_nobody_waits_for_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(SMALL), "wall_s", 120)  # the program ends before, even on a busy machine
    program = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel then forgets the times of children
for _ in range(20):
    end, ours = os.pipe()
    if os.fork() == 0:
        while time.process_time() < 0.25: pass
        os._exit(0)
    os.close(ours)
    os.read(end, 1)
    os.close(end)
"""
    assert run_program(program, limits=replace(SMALL, time_s=1)).ended == "time"


def test_the_name_of_the_host_is_not_told() -> None:
    assert run_program("import os\nprint(os.uname().nodename)", limits=SMALL).stdout == b"sandbox\n"
