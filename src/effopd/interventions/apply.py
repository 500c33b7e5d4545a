"""Interventions on a model on disk, which is read, changed and written tensor by tensor."""

import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from rich.filesize import decimal
from torch import Tensor

from effopd import __version__
from effopd.checkpoints import Pair, open_model, open_pair, write_model
from effopd.checkpoints.writer import free_directory
from effopd.checks import check_choice
from effopd.errors import UnsupportedError
from effopd.files import write_json
from effopd.interventions.factors import SavedFactors
from effopd.interventions.new_model import NewModel
from effopd.interventions.pair_source import PairSource
from effopd.interventions.plan import describe
from effopd.interventions.realised import Dtype, warn_of_error
from effopd.interventions.update import Intervention
from effopd.models.directory import ADAPTER_WEIGHTS, CONFIG, GENERATION_CONFIG, MODEL_FILES
from effopd.parameters import locate

RECORD = "intervention.json"


def intervene(
    base: str | Path,
    trained: str | Path,
    interventions: Sequence[Intervention],
    out: str | Path,
    *,
    dtype: Dtype | None = None,
    factors: SavedFactors | None = None,
    max_shard_bytes: int = 2 * 10**9,
    progress: Callable[[str, int], None] | None = None,
) -> dict[str, Any]:
    """Apply interventions to the update of a trained model, and write the new model.

    One tensor at a time is in memory, and one file of the output. A matrix that is truncated is held several times in
    float64. The new directory gets the trained model's config, tokenizer, chat template and way to generate (the base's
    where the trained model has none; the config of the one that stores the output head, if only one does) and a record,
    `intervention.json`. It appears under its name only when it is complete: an interruption leaves nothing behind.

    Args:
        base: Directory or hub name of the base.
        trained: Directory or hub name of a model or LoRA adapter trained from it.
        interventions: Interventions, applied to the update of each weight one after the other.
        out: Directory for the new model. It may exist if it is empty.
        dtype: `float32`, or `stored` for the dtype that each tensor of the trained model is stored in. By default
            float32 where the stored dtype would lose more than 1 % of the intended update's norm.
        factors: Singular vectors that an analysis of these two models has saved. They are used for truncations that
            need no more vectors than were saved.
        max_shard_bytes: Size in bytes above which a new file of weights is begun.
        progress: Function that is called before each tensor, with its name and the number of all tensors. That number
            grows when the model has to be written in another dtype after all.

    Returns:
        The record: the models, the interventions as entries of a plan, the versions, `dtype` and `stored_dtype`,
        `num_bytes` of the weights, `changed_fraction` (share of the trained model's elements that differ from the
        base's), and, each for the whole model as `total` and by module kind: `intended_norm`, the Frobenius norm of the
        new update before rounding; `realised_norm`, that of the written weights minus the base; `relative_error`, the
        norm of the difference of the two updates over that of the intended one; and `relative_error_if_stored`, what it
        is in the stored dtype. An error is None where something but no update was intended.

    Raises:
        ConfigurationError: An intervention has nothing to change in this model, or there is no such dtype.
        DataError: `out` is not empty, a model cannot be read, the models do not match, or a new weight is not finite.
        OSError: The disk is full, or `out` cannot be written.
        UnsupportedError: An adapter has an output head that its base does not have.
    """
    if dtype is not None:
        check_choice("dtype", dtype, get_args(Dtype))
    out = free_directory(out)
    pair = open_pair(base, trained)
    _warn_of_tied_embedding(pair)
    for intervention in interventions:
        intervention.check(pair.shapes)
    like = _like(pair, trained)
    staging = out.with_name(f".{out.name}.{os.getpid()}.new")
    new_model = NewModel(pair, interventions, PairSource(pair, factors), progress)

    def write(tensors: Iterable[tuple[str, Tensor]]) -> None:
        shutil.rmtree(staging, ignore_errors=True)
        write_model(staging, tensors, like, max_shard_bytes)

    try:
        new_model.write(write, dtype)
        _copy_tokenizer(pair, staging)
        record = {
            "base": str(base),
            "trained": str(trained),
            "interventions": [describe(intervention) for intervention in interventions],
            "factors": str(factors.directory) if factors else None,
            **new_model.record(),
            "num_bytes": sum(file.stat().st_size for file in staging.glob("*.safetensors")),
            "versions": {"effopd": __version__, "torch": torch.__version__},
        }
        write_json(staging / RECORD, record)
        staging.replace(out)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    warn_of_error(new_model.realised.total, f"The weights of {out}, in {record['dtype']},")
    return record


def summary(record: Mapping[str, Any]) -> str:
    """Say in one line what `intervene` wrote: dtype and why, size on disk, and what the weights hold of the update.

    Args:
        record: What `intervene` returned.
    """
    dtype, stored = record["dtype"], record["stored_dtype"]
    error, if_stored = (record[key]["total"] for key in ("relative_error", "relative_error_if_stored"))
    parts = [f"{dtype}, {decimal(record['num_bytes'])}"]
    if dtype != stored:
        parts[0] += f"; {stored} would lose {_percent(if_stored)} of the update's norm"
    parts.append(f"Norm of the update {record['realised_norm']['total']:.6g}, {_percent(error)} off the intended")
    if stored != "float32":
        parts.append(f"The trained model, in {stored}, differs from the base in {_percent(record['changed_fraction'])}")
        parts[-1] += " of its weights"
    return ". ".join(parts) + "."


def _percent(share: float | None) -> str:
    return "all" if share is None else f"{100 * share:.2g} %"


def _warn_of_tied_embedding(pair: Pair) -> None:
    """Warn if an adapter trained the embedding of a model whose output head is that embedding."""
    kinds = {name: locate(name).kind for name in pair.names}
    in_adapter = [
        name for name in kinds if name in pair.lora or pair.trained.tensors[name].file.name == ADAPTER_WEIGHTS
    ]
    changed = [name for name in in_adapter if kinds[name] == "embedding"]
    if changed and pair.trained.tied and "lm_head" not in kinds.values():
        warnings.warn(
            f"The adapter changes {changed[0]}, which is the output head too. The new model has the change in both, as "
            "PEFT's own merge gives it; in training, only the embedding had it.",
            stacklevel=3,
        )


def _copy_tokenizer(pair: Pair, directory: Path) -> None:
    """Give the new model the trained one's tokenizer with its template, or else the base's, and its way to generate."""
    places = [pair.trained.directory, pair.base.directory]
    source = next((place for place in places if any(place.glob("tokenizer*"))), places[1])
    for file in _tokenizer_files(directory):
        file.unlink()
    generation = [file for place in places if (file := place / GENERATION_CONFIG).is_file()][:1]
    for file in [*_tokenizer_files(source), *generation]:
        shutil.copyfile(file, directory / file.name)


def _tokenizer_files(directory: Path) -> set[Path]:
    found = {file for pattern in MODEL_FILES for file in directory.glob(pattern) if file.is_file()}
    return {file for file in found if file.name not in (CONFIG, GENERATION_CONFIG) and file.suffix != ".py"}


def _like(pair: Pair, trained: str | Path) -> Path:
    """Choose the model whose config the new one gets: the trained one, if it has all the tensors."""
    for directory in (pair.trained.directory, pair.base.directory):
        if (directory / CONFIG).exists() and open_model(directory).tensors.keys() == set(pair.names):
            return directory
    raise UnsupportedError(
        f"{trained} gives {pair.base.directory} an output head of its own, which its config does not have. Merge "
        "the adapter with PEFT (`merge_and_unload`, `save_pretrained`) and pass the merged model."
    )
