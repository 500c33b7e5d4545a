import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Two threads on two shared cores stall each other."""
    torch.set_num_threads(1)
