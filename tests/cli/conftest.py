"""The tiny pairs of the interventions' tests."""

from interventions.conftest import llama, other_llama, trained_llama

__all__ = ["llama", "other_llama", "trained_llama"]
