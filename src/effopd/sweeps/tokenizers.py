"""The tokenizers of checkpoints, and whether they can make the tasks' prompts into tokens."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from effopd.errors import ConfigurationError, DataError
from effopd.evaluation.prompts import encode_prompts
from effopd.evaluation.task import Task
from effopd.models.find import model_directory
from effopd.models.load import load_tokenizer
from effopd.sweeps.cells import Cell


def tokenizer_directory(checkpoint: Path, base: str | Path) -> str | Path:
    """Return where the tokenizer of a checkpoint is: in its own directory, or else with the base."""
    return checkpoint if any(checkpoint.glob("tokenizer*")) else base


def check_prompts(base: str, cells: Iterable[Cell], tasks: Mapping[str, Task]) -> None:
    """Check that every checkpoint's tokenizer can make a task's prompts into tokens, by the first prompt.

    Args:
        base: Directory or hub name of the base.
        cells: Cells of the sweep.
        tasks: Tasks by name.

    Raises:
        ConfigurationError: The prompts are messages, and a tokenizer has no chat template.
        DataError: A tokenizer cannot be read, or it fails on a prompt.
    """
    for checkpoint in dict.fromkeys(cell.directory for cell in cells):
        tokenizer = load_tokenizer(tokenizer_directory(checkpoint, model_directory(base)), require_pad_token=False)
        for name, task in tasks.items():
            try:
                encode_prompts(tokenizer, task.prompts[:1], task.chat_template_kwargs)
            except (ConfigurationError, DataError) as error:
                raise type(error)(f"{checkpoint}, task {name}: {error}") from error
