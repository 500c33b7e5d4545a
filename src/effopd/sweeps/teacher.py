"""Whether the teacher of a sweep means the same tokens as the models whose KL divergence to it is measured."""

from collections.abc import Iterable

from effopd.errors import ConfigurationError
from effopd.models.directory import weights_kind
from effopd.models.find import model_directory
from effopd.models.load import load_config, load_tokenizer
from effopd.models.vocabulary import check_vocabularies
from effopd.sweeps.cells import Cell
from effopd.sweeps.spec import SweepSpec
from effopd.sweeps.tokenizers import tokenizer_directory


def check_teacher(spec: SweepSpec, cells: Iterable[Cell]) -> None:
    """Check the teacher's vocabulary against that of every run of which a cell measures the KL divergence.

    Args:
        spec: Specification of the sweep.
        cells: Cells of the sweep.

    Raises:
        ConfigurationError: The teacher's tokenizer or its number of rows does not fit those of a run.
        DataError: A tokenizer cannot be read.
    """
    runs = {(cell.run, cell.training_seed): cell.directory for cell in cells if cell.kl}
    if spec.teacher is None or not runs:
        return
    teacher, base = model_directory(spec.teacher), model_directory(spec.base)
    teacher_tokenizer = load_tokenizer(teacher, require_pad_token=False)
    teacher_config = load_config(teacher)
    for (run, _), directory in runs.items():
        tokenizer = load_tokenizer(tokenizer_directory(directory, base), require_pad_token=False)
        config = load_config(base if weights_kind(directory) == "adapter" else directory)
        try:
            check_vocabularies(tokenizer, teacher_tokenizer, config, teacher_config)
        except ConfigurationError as error:
            raise ConfigurationError(f"teacher {spec.teacher}, for the run {run}: {error}") from error
