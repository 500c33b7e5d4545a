"""Versions that are written beside results."""

import platform
from importlib.metadata import version

from effopd.versions import installed_versions


def test_versions_of_what_is_installed_in_the_order_asked_for() -> None:
    found = installed_versions(["torch", "no-such-package-anywhere", "numpy"])
    expected = {"python": platform.python_version(), "torch": version("torch"), "numpy": version("numpy")}
    assert list(found.items()) == list(expected.items())
