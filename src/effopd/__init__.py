"""On-policy distillation of language models, made cheaper by extrapolating along the update direction."""

__version__ = "0.1.0"
