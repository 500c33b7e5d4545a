"""Tests EffOPD in verl, in an environment of its own: verl needs an older transformers than the newest that we support.

    python scripts/verl.py                  # makes .venv-verl if need be, and runs tests/integrations in it
    python scripts/verl.py -k resuming      # options of pytest

TRL is not installed there. The tests take some minutes, since they start many processes.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".venv-verl"
# torch comes first and alone, as in the Makefile. The last four are what verl imports on a CPU and does not require.
STEPS = (
    ["torch==2.13.0"],
    [
        "verl==0.9.1",
        "transformers>=5.10,<5.11",
        "pytest>=9",
        "TransferQueue>=0.1.10",
        "cachetools",
        "fastapi",
        "uvicorn",
    ],
    ["--no-deps", "--editable", str(ROOT)],
)


def main() -> int:
    """Install what is missing and run the tests; return pytest's exit status."""
    python = FOLDER / "bin" / "python"
    installed = FOLDER / "installed"
    if not installed.exists():
        if not python.exists():
            venv.create(FOLDER, with_pip=True, symlinks=True)
        for packages in STEPS:
            command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            subprocess.run(command, check=True)
        installed.touch()
    tests = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/integrations", *sys.argv[1:]]
    return subprocess.run(tests, check=False, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode


if __name__ == "__main__":
    sys.exit(main())
