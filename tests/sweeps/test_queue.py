from pathlib import Path

from effopd.sweeps import Cell
from effopd.sweeps.queue import CellQueue


def cells_of(*checkpoints: int) -> list[Cell]:
    return [
        Cell("A", 0, index, None, Path("x"), ({"scale": {"alpha": number}},), "world", 0, False, ())
        for number, index in enumerate(checkpoints)
    ]


def test_a_worker_stays_with_its_checkpoint_then_takes_one_that_nobody_holds() -> None:
    queue = CellQueue(cells_of(0, 1, 1, 0, 2, 2, 2))
    taken, resident = [], None
    other = ("A", 0, 1)
    while (cell := queue.take(resident, [other])) is not None:
        resident = cell.resident
        taken.append(cell.checkpoint)
    assert taken == [0, 0, 2, 2, 2, 1, 1]
    assert len(queue) == 0


def test_where_every_checkpoint_is_held_the_one_with_most_cells_left_is_taken() -> None:
    queue = CellQueue(cells_of(0, 1, 1, 1, 2, 2))
    held = [("A", 0, index) for index in range(3)]
    taken = [queue.take(None, held) for _ in range(3)]
    assert [cell.checkpoint for cell in taken if cell is not None] == [1, 1, 2]


def test_a_cell_fails_after_two_errors_or_three_lost_workers() -> None:
    (cell,) = cells_of(0)
    for method, times in (("failed", 2), ("lost", 3)):
        queue = CellQueue([cell])
        for attempt in range(1, times + 1):
            assert queue.take(None) is cell
            assert queue.attempt(cell) == attempt
            assert getattr(queue, method)(cell) is (attempt < times)
        assert queue.take(None) is None
