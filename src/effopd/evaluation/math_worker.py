"""A process that compares answers, one after another, and may be killed at any time.

    python math_worker.py MEMORY_MB

reads tasks `[text, expected, timeout_s, cpu_s]` from standard input, a line of JSON each, and answers each with
`true` or `false`. It starts with a line `"ready"`.
"""

import contextlib
import json
import math
import os
import resource
import sys
import time

from effopd.evaluation.math_values import equal_values


def main() -> None:
    """Answer until there is no more input."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print
    memory = int(sys.argv[1]) * 2**20
    with contextlib.suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    print('"ready"', file=answers, flush=True)
    for line in sys.stdin:
        text, expected, timeout_s, cpu_s = json.loads(line)
        # The kernel's own alarm, for the case that nobody is left to kill a process that hangs.
        soft = math.ceil(time.process_time() + cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        try:
            equal = equal_values(text, expected, timeout_s)
        except MemoryError:
            os._exit(1)
        print(json.dumps(equal), file=answers, flush=True)


if __name__ == "__main__":
    main()
