"""Worker processes of one thread each, which end with their parent and leave Ctrl-C to it."""

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
    """Worker processes of one thread each: several multi-threaded ones would stall one another.

    An exception, Ctrl-C for instance, ends them at once, whatever they are doing.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))  # read by the libraries when a worker loads them
    others = active_children()
    executor = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker)
    try:
        with _interrupts_ignored():  # which the processes inherit: Ctrl-C is the parent's
            for _ in range(workers):  # each starts one more process, as none is idle yet
                executor.submit(os.getpid)
        yield executor
    except BaseException:
        with _interrupts_ignored():  # a second Ctrl-C would be a traceback
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
        yield  # only the main thread may set handlers, and only it is interrupted
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    torch.set_num_threads(1)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
