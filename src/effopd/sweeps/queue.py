"""The cells that are still to be done, and which of them a worker gets next."""

from collections import Counter
from collections.abc import Iterable

from effopd.sweeps.cells import Cell, Resident

MAX_ATTEMPTS = 2
MAX_LOSSES = 3

_Waiting = dict[Resident, list[Cell]]


class CellQueue:
    """Cells to be done. Each is handed out until it is done, has failed twice, or has cost three workers.

    Deciding cells come before all others (see `Cell.deciding`).

    Args:
        cells: The cells.
    """

    def __init__(self, cells: Iterable[Cell]) -> None:
        self._first: _Waiting = {}
        self._others: _Waiting = {}
        for cell in cells:
            self._put(cell)
        self._failures: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(len(cells) for waiting in (self._first, self._others) for cells in waiting.values())

    def take(self, resident: Resident | None, others: Iterable[Resident | None] = ()) -> Cell | None:
        """Take the next cell for a worker out of the queue.

        A worker gets a cell of the checkpoint that it holds, if one is left. Otherwise it gets a cell of a checkpoint
        that no worker holds; and if there is none, of the checkpoint of which most cells are left.

        Args:
            resident: Checkpoint that the worker holds; None if it holds none.
            others: Checkpoints that the other workers hold.

        Returns:
            The cell; None if none is waiting.
        """
        held, waiting = set(others), self._first or self._others
        if resident not in waiting:
            free = [each for each in waiting if each not in held]
            resident = free[0] if free else max(waiting, key=lambda each: len(waiting[each]), default=None)
        if resident is None:
            return None
        cells = waiting[resident]
        cell = cells.pop(0)
        if not cells:
            del waiting[resident]
        return cell

    def failed(self, cell: Cell) -> bool:
        """Note that a cell raised an error, and tell whether it has been put back."""
        self._failures[cell.key] += 1
        return self._put_back(cell, self._failures[cell.key] < MAX_ATTEMPTS)

    def lost(self, cell: Cell) -> bool:
        """Note that a worker died while it evaluated a cell, and tell whether the cell has been put back."""
        self._losses[cell.key] += 1
        return self._put_back(cell, self._losses[cell.key] < MAX_LOSSES)

    def attempt(self, cell: Cell) -> int:
        """Return the number of the attempt at a cell that comes next or is under way, from 1."""
        return self._failures[cell.key] + self._losses[cell.key] + 1

    def _put_back(self, cell: Cell, again: bool) -> bool:
        if again:
            self._put(cell)
        return again

    def _put(self, cell: Cell) -> None:
        waiting = self._first if cell.deciding else self._others
        waiting.setdefault(cell.resident, []).append(cell)
