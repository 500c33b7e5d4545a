"""A process that compares answers as mathematics, one after another, and that may be killed at any time.

    python math_worker.py MEMORY_MB

It writes a first line `"ready"`. Then it reads tasks `[text, expected, timeout_s, cpu_s]` from standard input, each a
line of JSON, and answers each with a line `true` or `false`.
"""

import contextlib
import json
import math
import os
import resource
import sys
import time

from effopd.grading.compare_values import equal_values


def main() -> None:
    """Answer tasks until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to standard error
    memory = int(sys.argv[1]) * 2**20
    with contextlib.suppress(ValueError):  # macOS does not have this limit
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    print('"ready"', file=answers, flush=True)
    for line in sys.stdin:
        text, expected, timeout_s, cpu_s = json.loads(line)
        # The kernel ends a process that hangs, even if nobody is left to kill it.
        soft = math.ceil(time.process_time() + cpu_s) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))
        try:
            equal = equal_values(text, expected, timeout_s)
        except MemoryError:
            os._exit(1)
        print(json.dumps(equal), file=answers, flush=True)


if __name__ == "__main__":
    main()
