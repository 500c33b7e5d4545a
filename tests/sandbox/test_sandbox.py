"""Programs that attack their sandbox: whatever they do, they end, and nothing of them is left."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from sandbox.sandboxes import BRIEF, SMALL, hangs_are_short, needs_bubblewrap

from effopd.errors import UnsupportedError
from effopd.sandbox import Limits, SandboxedProcess, check_sandbox, run_program, watch

pytestmark = [needs_bubblewrap, pytest.mark.usefixtures("nothing_left")]

FORK_BOMB = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
MANY_MAPPINGS = """
import mmap
x = []
while True:
    x.append(mmap.mmap(-1, 2**20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    x[-1].write(b"x" * 2**20)
"""
MEMORY_BOMB_IN_FORKS = """
import os, time
for _ in range(12):
    if not os.fork():
        break
x = bytearray(b"1") * (60 * 2**20)
time.sleep(60)
"""
IGNORE_SIGNALS = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)
print("done")
"""


@pytest.mark.parametrize(
    ("program", "endings"),
    [
        (FORK_BOMB, {"time", "processes"}),
        ("x = []\nwhile True: x.append(bytearray(b'1') * 2**24)", {"memory"}),
        (MEMORY_BOMB_IN_FORKS, {"memory"}),
        (MANY_MAPPINGS, {"memory"}),
        ("n = 0\nwhile True:\n    open(str(n), 'w').close()\n    n += 1", {"files"}),
        ("while True: print('x' * 1000)", {"output"}),
        ("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", {"output"}),
        ("while True: pass", {"time"}),
        (IGNORE_SIGNALS, {"time"}),
        (
            "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(60,)).start()",
            {"exited", "time"},
        ),
        ("x = bytearray(10**12)", {"exited"}),
        ("import os, time\nfor i in range(3): os.close(i)\ntime.sleep(600)", {"time"}),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", {"time"}),
    ],
)
def test_limits_break_a_program_off(program: str, endings: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    if "time" in endings:
        hangs_are_short(monkeypatch)
    outcome = run_program(program, limits=BRIEF if "time" in endings else SMALL)
    assert outcome.ended in endings
    assert outcome.exit_code != 0
    assert len(outcome.stdout) + len(outcome.stderr) < 4 * 2**20


def test_a_daemon_ends_with_the_program_that_left_it() -> None:
    outcome = run_program(DAEMON, limits=SMALL)
    assert (outcome.ended, outcome.exit_code, outcome.stdout) == ("exited", 0, b"done\n")


def report(program: str, **keywords: Any) -> Any:
    """What a program prints, as JSON."""
    outcome = run_program(program, limits=SMALL, **keywords)
    assert outcome.exit_code == 0, outcome.stderr
    return json.loads(outcome.stdout)


def test_nothing_outside_can_be_written(tmp_path: Path) -> None:
    program = f"""
import json, os
written = []
os.symlink({str(tmp_path)!r}, "link")
os.symlink("/proc/1/root" + {str(tmp_path)!r}, "through_proc")
for directory in ["/", "/usr", "/usr/bin", "/usr/lib", "/etc", "/dev", "/proc", "/sandbox", "/sandbox/python", "/root",
                  "/home", "/var/tmp", {str(tmp_path)!r}, "link", "through_proc", "/proc/1/cwd", "/proc/1/root",
                  "/sandbox/library/effopd/sandbox/inside", "/sandbox/packages/numpy"]:
    try:
        open(directory + "/escaped", "w").close()
        written.append(directory)
    except OSError:
        pass
for path in ["/sandbox/main.py", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/usr/bin/env"]:
    try:
        os.close(os.open(path, os.O_WRONLY))
        written.append(path)
    except OSError:
        pass
print(json.dumps(written))
"""
    assert report(program) == []
    assert list(tmp_path.iterdir()) == []


def test_neither_environment_nor_home_nor_files_of_the_host_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFOPD_SECRET", "swordfish")
    program = """
import json, os
def look(path):
    try:
        return os.listdir(path) if os.path.isdir(path) else open(path, "rb").read().decode(errors="replace")
    except OSError:
        return None
paths = ["/root", "/home", "/etc/passwd", "/etc/shadow", "/var", "/run", "/sys", "/work", "/proc/1/environ",
         "/proc/2/environ", "/proc/self/environ"]
print(json.dumps({"environment": dict(os.environ), "files": {path: look(path) for path in paths},
                  "top": os.listdir("/"), "here": os.listdir("."), "descriptors": os.listdir("/proc/self/fd"),
                  "processes": [name for name in os.listdir("/proc") if name.isdigit()], "user": os.getresuid()}))
"""
    seen = report(program)
    assert "swordfish" not in json.dumps(seen)
    threads = {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"}
    assert set(seen["environment"]) <= {"PATH", "HOME", "LANG", "LC_CTYPE", "PWD", *threads}
    assert not any(content for path, content in seen["files"].items() if "environ" not in path)
    assert set(seen["top"]) <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sandbox", "tmp", "usr"}
    assert seen["here"] == []
    assert seen["descriptors"] == ["0", "1", "2", "3"]  # the last one is that of the listing itself
    assert len(seen["processes"]) == 2
    assert 0 not in seen["user"]


def test_there_is_no_network_and_no_way_to_more_rights() -> None:
    program = """
import json, os, resource, socket, subprocess, sys
done = []
def attempt(name, function):
    try:
        function()
        done.append(name)
    except (OSError, ValueError):
        pass
for family in range(2, 46):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt(f"socket {family}", lambda: socket.socket(family, kind))
attempt("memfd", lambda: os.memfd_create("x"))
attempt("root", lambda: os.setuid(0))
attempt("nice", lambda: os.nice(-1))
attempt("mknod", lambda: os.mknod("disk", 0o60666, os.makedev(8, 0)))
attempt("chroot", lambda: os.chroot("/tmp"))
for name in ("CPU", "AS", "FSIZE", "NOFILE", "CORE"):
    limit = getattr(resource, "RLIMIT_" + name)
    attempt(name, lambda: resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)))
for command in (["unshare", "-U", "true"], ["mount", "-t", "tmpfs", "x", "/tmp"]):
    attempt(command[0], lambda: subprocess.run(command, check=True, capture_output=True)
            if subprocess.run(command, capture_output=True).returncode == 0 else os.stat("/nothing"))
print(json.dumps(done))
"""
    assert report(program) == []


def test_what_a_program_may_use() -> None:
    program = """
import json, multiprocessing, subprocess, sys, tempfile, threading
import numpy
with multiprocessing.Pool(2) as pool:
    doubled = pool.map(float, [1, 2])
with tempfile.TemporaryFile() as file:
    file.write(b"x" * 2**20)
total = []
thread = threading.Thread(target=lambda: total.append(int(numpy.arange(4).sum())))
thread.start()
thread.join()
print(json.dumps([__name__, input(), doubled, total, subprocess.check_output(["echo", "hi"], text=True)]))
exit()
"""
    assert report(program, stdin="a line\n") == ["__main__", "a line", [1.0, 2.0], [6], "hi\n"]


def test_how_a_program_ends() -> None:
    outcome = run_program("import sys; print(sys.stdin.read()); sys.exit(3)", stdin="\u00e9", limits=SMALL)
    assert (outcome.exit_code, outcome.stdout) == (3, b"\xc3\xa9\n")
    assert run_program("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", limits=SMALL).exit_code == 137
    outcome = run_program("1 +", limits=SMALL)
    assert outcome.exit_code == 1
    assert b"SyntaxError" in outcome.stderr
    assert run_program("\ud800\0", limits=SMALL).exit_code == 1


def test_sets_are_in_the_same_order_every_time() -> None:
    program = "print({'a', 'b', 'c', 'd', 'e', 'f'})"
    assert len({run_program(program, limits=SMALL).stdout for _ in range(3)}) == 1


def test_another_thread_can_stop_it() -> None:
    stop = threading.Event()
    timer = threading.Timer(0.3, stop.set)
    timer.start()
    with SandboxedProcess("import time; time.sleep(600)", Limits()) as process:
        assert watch([process], stop).ended == "stopped"
    timer.join()


def test_a_sandbox_that_does_not_start_is_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    check_sandbox()
    monkeypatch.setattr("effopd.sandbox.bubblewrap._LAUNCH", "/sandbox/nothing.py")
    with pytest.raises(UnsupportedError, match=r"did not start.*nothing\.py"):
        run_program("print(1)")
    with pytest.raises(UnsupportedError, match=r"does not start.*nothing\.py"):
        check_sandbox()


def test_machines_without_a_filter_of_system_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(UnsupportedError, match=r"x86_64 and aarch64.*riscv64"):
        run_program("print(1)")


def test_shared_memory_counts_once() -> None:
    program = """
import os, time
x = bytearray(b"1") * (100 * 2**20)
for _ in range(3):
    if not os.fork():
        time.sleep(0.5)
        os._exit(0)
for _ in range(3):
    os.wait()
print(len(x))
"""
    assert run_program(program, limits=SMALL).stdout == b"104857600\n"
