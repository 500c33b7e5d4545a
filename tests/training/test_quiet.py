"""Silence from the libraries underneath."""

import logging

import pytest

from effopd.training.quiet import quiet_libraries


@pytest.mark.parametrize("name", ["transformers.trainer", "trl.trainer.utils", "DeepSpeed"])
def test_only_errors_are_shown_within_the_context(name: str) -> None:
    shown: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: shown.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    logger.addHandler(handler)
    before = logging.getLogger("DeepSpeed").level
    try:
        with quiet_libraries():
            logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # as its import does
            logger.warning("within")
            logger.error("an error")
        logger.warning("after")
    finally:
        logger.removeHandler(handler)
        logging.getLogger("DeepSpeed").setLevel(before)
    assert shown == ["an error", "after"]
