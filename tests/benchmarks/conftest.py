"""The tests here import the benchmarks' files as those import one another, as if a script there had been started."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
