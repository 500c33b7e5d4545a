"""Fixtures that the tests of sandboxes and of graders share."""

from sandbox.sandboxes import nothing_left

__all__ = ["nothing_left"]
