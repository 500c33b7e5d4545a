"""Waiting for the values of asynchronous reward functions, side by side."""

import asyncio
import atexit
from collections.abc import Sequence
from functools import cache
from inspect import isawaitable
from typing import Any

from trl.trainer.utils import shutdown_event_loop_in_daemon, start_event_loop_in_daemon


def wait_for(trainer: Any, results: Sequence[Any]) -> list[Any]:
    """Replace what asynchronous reward functions returned by what comes of it, waiting for all of them side by side.

    All calls run on one event loop, because a reward function may keep objects that are bound to its loop.
    """
    pending = [result for result in results if isawaitable(result)]
    if not pending:
        return list(results)

    async def wait() -> Any:
        return await asyncio.gather(*pending)

    loop = getattr(trainer, "async_loop", None) or _event_loop()
    arrived = iter(asyncio.run_coroutine_threadsafe(wait(), loop).result())
    return [next(arrived) if isawaitable(result) else result for result in results]


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    """Start an event loop in a thread of its own, since the thread of a notebook runs one already."""
    loop: asyncio.AbstractEventLoop
    thread, loop, ready = start_event_loop_in_daemon(name="effopd-rewards")
    ready.wait()
    atexit.register(shutdown_event_loop_in_daemon, thread, loop)
    return loop
