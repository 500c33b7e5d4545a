import multiprocessing
import time

import pytest

from effopd.updates.pool import one_thread_each


def test_an_interruption_ends_the_workers_whatever_they_do() -> None:
    with pytest.raises(KeyboardInterrupt), one_thread_each(2) as executor:
        executor.submit(time.sleep, 60)
        workers = multiprocessing.active_children()
        assert len(workers) == 2
        raise KeyboardInterrupt
    assert not any(worker.is_alive() for worker in workers)
