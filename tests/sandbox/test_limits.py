"""Limits are checked when they are made."""

from typing import Any

import pytest

from effopd.errors import ConfigurationError
from effopd.sandbox import Limits


@pytest.mark.parametrize(
    "limits", [{"time_s": 0}, {"time_s": float("nan")}, {"memory_mb": 1}, {"processes": 0}, {"output_mb": 0}]
)
def test_limits_out_of_range_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        Limits(**limits)
