"""SIGTERM, which schedulers and `kill` send, as an interruption like Ctrl-C: what is half done is cleared away."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class Terminated(KeyboardInterrupt):
    """SIGTERM has come."""


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Until the block ends, SIGTERM raises `Terminated` in the main thread; in any other, the block changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _terminate(number: int, frame: object) -> None:
    raise Terminated
