"""Versions of the installed packages, to be written beside results."""

import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Look up the version of Python and, in the given order, of those of the packages that are installed.

    Args:
        packages: Names of distributions, such as `math-verify`.
    """
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
