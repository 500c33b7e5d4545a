"""Short runs on the embedded world."""

from pathlib import Path

import pytest
from sweeps.short_runs import PAPER, make, write_checkpoint

from effopd.sweeps import SweepSpec, sweep


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one method and one of another, with checkpoints at steps 1, 10 and 20; only to be read."""
    root = tmp_path_factory.mktemp("runs")
    for seed, run in enumerate(("opd-0", "opd-1", "grpo-0")):
        for step in (1, 10, 20):
            write_checkpoint(root / run / f"checkpoint-{step}", step / 20, 100 * seed + step)
    return root


@pytest.fixture(scope="session")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepSpec, Path]:
    """A sweep of all that the paper does; a second start of it must change nothing."""
    spec = make(root, sweeps=PAPER, teacher="world:teacher", max_values=2, max_checkpoints=2, seeds=[0, 1], limit=4)
    result = sweep(spec, tmp_path_factory.mktemp("sweep") / "out", workers=1)
    assert result.failed == []
    return spec, result.directory
