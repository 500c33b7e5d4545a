"""What the tests of programs share."""

import shutil
from dataclasses import replace

import pytest

from effopd.evaluation.limits import Limits

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
SMALL = Limits(time_s=30, memory_mb=256, processes=16, output_mb=1, file_mb=16, files=1000)
"""Seconds enough for whatever ends by itself or at another limit, on however busy a machine."""
BRIEF = replace(SMALL, time_s=0.5)
"""For what time alone ends."""


def hangs_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that wait without computing are broken off after a second and a half."""
    monkeypatch.setattr(Limits, "wall_s", 1.5)
