"""Hides installed packages from a process, as if they were not installed."""

import re
import sys
from collections.abc import Collection
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from typing import Any


def hide(packages: Collection[str]) -> None:
    """Let none of these packages be found from now on; none may have been imported."""
    assert not set(packages) & set(sys.modules)

    class Finder(PathFinder):
        @classmethod
        def find_spec(cls, fullname: str, *args: Any, **kwargs: Any) -> ModuleSpec | None:
            return None if fullname in packages else super().find_spec(fullname, *args, **kwargs)

    sys.meta_path = [Finder if finder is PathFinder else finder for finder in sys.meta_path]


def hide_all_but(distributions: Collection[str]) -> set[str]:
    """Let no package be found but those of some distributions and of what these require; return the others' names."""
    kept, queue = set[str](), list(distributions)
    while queue:
        name = plain(queue.pop())
        try:
            needed = requires(name) or []
        except PackageNotFoundError:  # such as those for other systems
            continue
        if name not in kept:
            kept.add(name)
            queue += [re.split(r"[^\w.-]", each)[0] for each in needed if "extra ==" not in each]
    owners = packages_distributions().items()
    hidden = {module for module, names in owners if not {plain(name) for name in names} & (kept | {"effopd"})}
    hide(hidden)
    return hidden


def plain(name: str) -> str:
    """A distribution's name as pip compares it."""
    return name.lower().replace("_", "-")
