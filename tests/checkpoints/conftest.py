"""Models that every test only reads."""

from pathlib import Path

import pytest
from tiny_pairs import write_trained
from training.tiny_models import write_tiny_llama, write_tiny_qwen3


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untied, bf16, in several shards."""
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def trained_llama(llama: Path) -> Path:
    """Trained, in one file."""
    return write_trained(llama, llama.with_name("trained_llama"))


@pytest.fixture(scope="session")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tied, bf16, in several shards."""
    return write_tiny_qwen3(tmp_path_factory.mktemp("models") / "qwen3")
