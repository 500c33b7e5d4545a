"""Runs a script of the tests in several processes of one machine, and ends these."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import torch.distributed as dist

import effopd

# What is in PYTHONPATH already goes first: it may name the versions of packages that are under test.
GIVEN = os.environ.get("PYTHONPATH")
FOLDERS = [*([GIVEN] if GIVEN else []), str(Path(effopd.__file__).parents[1]), str(Path(__file__).parent)]
TORCHRUN = ["torch.distributed.run", "--standalone"]


def torchrun(
    script: Path, *arguments: str | Path, processes: int = 2, launcher: list[str] | None = None, **environment: str
) -> str:
    """Run a script by torchrun, or by another launcher's module and arguments; return what all processes wrote.

    A process that crashes says where each of its threads was.
    """
    command = launcher or [*TORCHRUN, f"--nproc-per-node={processes}"]
    given = {"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": os.pathsep.join(FOLDERS)} | environment
    done = subprocess.run(
        [sys.executable, "-m", *command, script, *arguments],
        env=os.environ | given,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-8000:]
    return done.stdout + done.stderr


def leave() -> NoReturn:
    """End this process once all have come here, without the interpreter's own clean-up.

    If a thread of gloo frees a tensor while the interpreter ends, the process is aborted (SIGABRT).
    """
    dist.barrier()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
