"""Waiting for the values of asynchronous reward functions."""

import asyncio
import atexit
from collections.abc import Awaitable
from functools import cache
from typing import Any

from trl.trainer.utils import shutdown_event_loop_in_daemon, start_event_loop_in_daemon


def wait_for(trainer: Any, values: Awaitable[Any]) -> Any:
    """Wait for what an asynchronous reward function returned.

    All calls run on one event loop, because a reward function may keep objects that are bound to its loop.
    """

    async def wait() -> Any:
        return await values

    loop = getattr(trainer, "async_loop", None) or _event_loop()
    return asyncio.run_coroutine_threadsafe(wait(), loop).result()


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Start an event loop in a thread of its own, since the thread of a notebook runs one already."""
    loop: asyncio.AbstractEventLoop
    thread, loop, ready = start_event_loop_in_daemon(name="effopd-rewards")
    ready.wait()
    atexit.register(shutdown_event_loop_in_daemon, thread, loop)
    return loop
