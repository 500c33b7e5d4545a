"""Runs the tests of what depends on TRL and transformers with the oldest versions that are supported, or with others.

    python scripts/versions.py oldest                          # TRL 1.15.0 with transformers 5.10.1
    python scripts/versions.py 1.16.0 5.10.1 tests/training    # any others, and other tests
    python scripts/versions.py newest                          # the newest of both that pip finds within the ranges

The versions are installed into `build/versions/`, where Python looks before the environment that runs this, so that
torch is not installed again. The tests take about ten minutes. TRL 1.15 distils by Triton alone, which does not come
with torch for the CPU; here Triton interprets its kernels instead of compiling them.
"""

import argparse
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = {"oldest": ("1.15.0", "5.10.1"), "newest": (">=1.15,<1.17", ">=5.10,<6")}
TESTS = ["tests/trl_hooks", "tests/extrapolation"]


def install(folder: Path, packages: list[str]) -> None:
    """Install packages into a folder, without what they require, which is in the environment."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(folder), *packages], check=True)


def main() -> int:
    """Install the versions and run the tests; return pytest's exit status."""
    parser = argparse.ArgumentParser(description="Run tests with other versions of TRL and transformers.")
    parser.add_argument("trl", help="oldest, newest, or a version of TRL")
    parser.add_argument("rest", nargs="*", help="a version of transformers if TRL's is a number; then tests to run")
    options, pytest_options = parser.parse_known_args()
    if options.trl in NAMED:
        (trl, transformers), tests = NAMED[options.trl], options.rest
    elif options.rest:
        trl, transformers, *tests = options.trl, *options.rest
    else:
        parser.error("give a version of transformers too, such as 5.10.1")
    folder = ROOT / "build" / "versions" / f"{options.trl}-{transformers}".replace(">=", "").replace("<", "")
    if not folder.exists():
        wanted = [
            f"{name}{'==' * given[0].isdigit()}{given}"
            for name, given in (("trl", trl), ("transformers", transformers))
        ]
        install(folder, [*wanted, "triton"] if trl.startswith("1.15") else wanted)
        # Older versions of transformers refuse newer versions of these two; huggingface_hub 1 needs the last two.
        [found] = distributions(name="transformers", path=[str(folder)])
        bounded = [each for each in found.requires or [] if each.startswith(("tokenizers", "huggingface-hub"))]
        install(folder, [each for each in bounded if "extra" not in each] + ["httpx", "httpcore"])
    paths = os.pathsep.join([str(folder), str(ROOT / "src")])
    environment = os.environ | {"PYTHONPATH": paths, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    show = (
        "import transformers, trl; print('TRL', trl.__version__, 'transformers', transformers.__version__, flush=True)"
    )
    subprocess.run([sys.executable, "-c", show], check=True, env=environment, cwd=ROOT)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *pytest_options, *(tests or TESTS)]
    return subprocess.run(command, check=False, env=environment, cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
