"""What the tests of programs share."""

import shutil

import pytest

from effopd.evaluation.limits import Limits

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
SMALL = Limits(time_s=0.5, memory_mb=256, processes=16, output_mb=1, file_mb=16, files=1000)
