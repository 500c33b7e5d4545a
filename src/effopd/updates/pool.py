"""Worker processes of one thread each. They end when their parent ends, and leave Ctrl-C to it."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context, parent_process

import torch


@contextlib.contextmanager
def one_thread_each(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes of one thread each, because several processes with many threads stall one another.

    An exception, for instance by Ctrl-C, ends the processes at once, whatever they are doing.

    Args:
        workers: Number of processes.

    Yields:
        Executor that runs functions in them.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))  # libraries read these when a worker loads them
    others = active_children()
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker)
    try:
        with _interrupts_ignored():  # the processes inherit this, so that only the parent gets Ctrl-C
            for _ in range(workers):  # every call starts one more process, because none is idle yet
                executor.submit(os.getpid)
        yield executor
    except BaseException:
        with _interrupts_ignored():  # a second Ctrl-C would end this with a traceback
            for process in set(active_children()).difference(others):
                process.terminate()
            executor.shutdown(cancel_futures=True)
        raise
    else:
        executor.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread is interrupted, and only it may set handlers
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def start_worker() -> None:
    """Give this worker process one thread, and end it when its parent ends."""
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
