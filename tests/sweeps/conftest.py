"""Short runs on the embedded world."""

from pathlib import Path

import pytest
from sweeps.short_runs import write_checkpoint


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of one method and one of another, with checkpoints at steps 1, 10 and 20; only to be read."""
    root = tmp_path_factory.mktemp("runs")
    for seed, run in enumerate(("opd-0", "opd-1", "grpo-0")):
        for step in (1, 10, 20):
            write_checkpoint(root / run / f"checkpoint-{step}", step / 20, 100 * seed + step)
    return root
