"""Tiny pairs that every test only reads."""

from pathlib import Path

import pytest
from checkpoints.tiny_pairs import write_trained
from training.tiny_models import write_tiny_llama, write_tiny_qwen3

from effopd.checkpoints import Pair, open_pair


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied, bf16, two layers."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def trained_llama(llama: Path) -> Path:
    """With noise on every weight."""
    return write_trained(llama, llama.with_name("trained_llama"))


@pytest.fixture(scope="session")
def other_llama(llama: Path) -> Path:
    """With other noise."""
    return write_trained(llama, llama.with_name("other_llama"), seed=2)


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied, bf16, three layers, norms inside attention."""
    return write_tiny_qwen3(tmp_path_factory.mktemp("models") / "qwen3", num_layers=3)


@pytest.fixture(scope="session")
def trained_qwen3(qwen3: Path) -> Path:
    """With noise on every weight."""
    return write_trained(qwen3, qwen3.with_name("trained_qwen3"))


@pytest.fixture(scope="session")
def pair(llama: Path, trained_llama: Path) -> Pair:
    return open_pair(llama, trained_llama)
