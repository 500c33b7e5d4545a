r"""Running untrusted Python programs: in a sandbox, with limits on everything that they use.

    from effopd.sandbox import Limits, run_program

    outcome = run_program("print(int(input()) + 1)", stdin="41\n")
    outcome.ended, outcome.exit_code, outcome.stdout                   # 'exited', 0, b'42\n'

    run_program("while True: pass", limits=Limits(time_s=1)).ended     # 'time'

A program sees a read-only Python with NumPy, an empty `/tmp` and nothing else: no network, no files of the host, no
other processes. When it ends, or reaches a limit, everything that it has started ends with it. The sandbox is made by
bubblewrap, on Linux; `check_sandbox` tells whether it works on this machine.

`SandboxedProcess` and `watch` are the two halves of `run_program`, for those who let several sandboxes work together.
"""

from effopd.sandbox.limits import Limits
from effopd.sandbox.process import SandboxedProcess
from effopd.sandbox.run import check_sandbox, run_program, warn_unsafe
from effopd.sandbox.watch import Outcome, watch

__all__ = ["Limits", "Outcome", "SandboxedProcess", "check_sandbox", "run_program", "warn_unsafe", "watch"]
