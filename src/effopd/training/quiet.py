"""Silence from the libraries underneath, for commands that show progress bars of their own."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import transformers


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Let transformers, TRL, datasets, accelerate and DeepSpeed show nothing but errors within the context.

    Warnings of effopd itself are still shown.
    """
    loggers = [logging.getLogger(name) for name in ("transformers", "trl", "datasets", "accelerate")]
    levels = [logger.level for logger in loggers]
    deepspeed = logging.getLogger("DeepSpeed")
    datasets_bars = not datasets.are_progress_bars_disabled()
    transformers_bars = transformers.utils.logging.is_progress_bar_enabled()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    deepspeed.addFilter(_is_error)  # TRL may import it within the context, which sets its level anew
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            for module in ("transformers", "trl", "datasets", "accelerate", "torch"):
                warnings.filterwarnings("ignore", module=rf"{module}\b")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        deepspeed.removeFilter(_is_error)
        if datasets_bars:
            datasets.enable_progress_bars()
        if transformers_bars:
            transformers.utils.logging.enable_progress_bar()


def _is_error(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR
