r"""Running one program in a sandbox, from its start to its end.

outcome = run_program("print(int(input()) + 1)", stdin="41\n")
outcome.ended, outcome.exit_code, outcome.stdout           # 'exited', 0, b'42\n'
"""

import os
import warnings

from effopd.errors import UnsupportedError
from effopd.sandbox.limits import Limits
from effopd.sandbox.process import SandboxedProcess
from effopd.sandbox.watch import Outcome, watch


def run_program(source: str, *, stdin: str = "", limits: Limits | None = None, unsafe: bool = False) -> Outcome:
    """Run a Python program until it ends or reaches a limit.

    Args:
        source: Source code of the program.
        stdin: Text that the program reads from standard input.
        limits: Limits on what it may use; `Limits()` by default.
        unsafe: Whether to run it without a sandbox: with all rights of this user, and with limits only on each single
            process. This warns.

    Raises:
        UnsupportedError: There is no working sandbox.
    """
    if unsafe:
        warn_unsafe()
    with SandboxedProcess(source, limits or Limits(), stdin=stdin, unsafe=unsafe) as process:
        return watch([process])


def warn_unsafe() -> None:
    """Warn that programs are about to run without a sandbox."""
    warnings.warn(
        "Code written by a model runs without a sandbox, with all your rights. Do this only on a machine that you can"
        " throw away.",
        stacklevel=3,
    )


def check_sandbox() -> None:
    """Check that the sandbox works on this machine, by starting a program in it.

    Raises:
        UnsupportedError: There is no working sandbox, or its processes cannot be measured from outside.
    """
    with SandboxedProcess("import time; time.sleep(60)", Limits()) as process:
        if not os.read(process.ready, 1):
            message = os.read(process.stderr, 2000).decode(errors="replace").strip()
            raise UnsupportedError(f"The sandbox does not start: {message}. See docs/evaluation.md for what it needs.")
        if process.usage().processes == 0:
            raise UnsupportedError("The processes of a sandbox cannot be seen from outside: /proc is restricted here.")
