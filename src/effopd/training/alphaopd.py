"""AlphaOPD: the weights of an early window of OPD, extrapolated to a target accuracy (arXiv 2510.00553, for OPD)."""

import logging
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from effopd.checkpoints import Checkpoint, Pair, find_checkpoints, open_pair, write_model
from effopd.checkpoints.model import split_expert
from effopd.checkpoints.rounding import round_to
from effopd.errors import ConfigurationError, DataError
from effopd.extras import require
from effopd.files import read_json_lines, write_json
from effopd.parameters import locate
from effopd.training.complete_checkpoints import COMPLETE
from effopd.training.config import RunArguments
from effopd.training.metrics import METRICS
from effopd.training.rl_config import TrainConfig
from effopd.updates import singular_vectors
from effopd.updates.rank_one import FEWEST_CHECKPOINTS, extrapolate_rank_one

logger = logging.getLogger(__name__)

MODEL, RECORD = "alphaopd", "alphaopd.json"


def check_alphaopd(arguments: RunArguments, config: TrainConfig) -> None:
    """Refuse settings by which the early window would not leave what the extrapolation needs.

    Raises:
        ConfigurationError: Something is missing, or does not go with `method: alphaopd`.
        MissingPackageError: scikit-learn is not installed.
    """
    if config.method != "alphaopd":
        if arguments.alphaopd_target is not None:
            raise ConfigurationError(
                f"alphaopd_target={arguments.alphaopd_target} has no effect with method={config.method!r}; leave it "
                "out, or set method to alphaopd."
            )
        return
    require("sklearn", "method='alphaopd'")
    if arguments.alphaopd_target is None:
        raise ConfigurationError("method='alphaopd' extrapolates to an accuracy, and alphaopd_target is not set.")
    if arguments.acceleration != "none":
        raise ConfigurationError(
            f"acceleration={arguments.acceleration!r} jumps along the path that method='alphaopd' fits over plain "
            "steps, and the two are not defined together. Set acceleration: none."
        )
    if config.eval_strategy == "no" or config.save_strategy == "no":
        raise ConfigurationError(
            "method='alphaopd' fits the weights of checkpoints to their accuracies: set eval_strategy and "
            "save_strategy (with evaluation_dataset_name), so that at least 3 steps have both."
        )
    if config.save_total_limit is not None:
        raise ConfigurationError(
            f"save_total_limit={config.save_total_limit} removes checkpoints that method='alphaopd' needs; leave "
            "it out."
        )
    if (config.model_init_kwargs or {}).get("revision"):
        raise ConfigurationError(
            "method='alphaopd' reads the student's start from its files, and of a hub model only the newest ones. "
            "Download the revision, and give its directory."
        )
    steps = {"steps"} == {config.eval_strategy.value, config.save_strategy.value} and config.max_steps > 0
    if steps and config.save_steps >= 1 and config.eval_steps and config.eval_steps >= 1:
        both = [
            step
            for step in range(1, config.max_steps + 1)
            if step == config.max_steps or not (step % config.save_steps or step % config.eval_steps)
        ]
        if len(both) < FEWEST_CHECKPOINTS:
            raise ConfigurationError(
                f"With max_steps={config.max_steps}, save_steps={config.save_steps} and eval_steps={config.eval_steps},"
                f" {len(both)} steps are both saved and evaluated; method='alphaopd' needs at least"
                f" {FEWEST_CHECKPOINTS}."
            )


def extrapolate_run(directory: Path, base: str, target: float, num_evaluation: int) -> dict[str, Any]:
    """Extrapolate the weights of a run to an accuracy, and write the model into its directory.

    Every matrix of attention and MLP gets the base's weights and its predicted rank-1 update
    (`effopd.updates.rank_one`). All other tensors, and matrices of which nothing can be predicted, are the base's.

    Args:
        directory: Directory of a run, whose model and record from an earlier call are written anew.
        base: Model that the run started from.
        target: Accuracy to extrapolate to.
        num_evaluation: Number of completions that an evaluation of the run sampled.

    Returns:
        The record: steps and accuracies that were fitted, `evaluation_rollouts`, which measured them, `rollouts`, which
        are these and those of training up to the last step, the number of `matrices`, those `left_at_base`, and the
        median `r2`.

    Raises:
        DataError: Fewer than 3 checkpoints have an accuracy, or these are equal; or nothing can be predicted.
    """
    started = time.perf_counter()
    rows = {row["step"]: row for row in read_json_lines(directory / METRICS) if row["accuracy"] is not None}
    folders = [marker.parent for marker in directory.glob(f"checkpoint-*/{COMPLETE}")]
    found = [each for each in find_checkpoints(folders) if each.step in rows] if folders else []
    found.sort(key=lambda each: each.step or 0)
    accuracies = [rows[each.step]["accuracy"] for each in found]
    if len(found) < FEWEST_CHECKPOINTS or len(set(accuracies)) == 1:
        raise DataError(
            f"{directory}: got {len(found)} checkpoints with accuracies {accuracies}; expected at least "
            f"{FEWEST_CHECKPOINTS}, and accuracies that differ. Train the early window longer, save and evaluate at "
            "more of its steps, or evaluate on more prompts."
        )
    path = _Path(base, found, accuracies, target)
    shutil.rmtree(directory / MODEL, ignore_errors=True)  # of a command that was interrupted just after it
    write_model(directory / MODEL, path.tensors(), like=found[-1].directory)
    if not path.r2:
        shutil.rmtree(directory / MODEL)
        raise DataError(f"{directory}: no matrix of attention or MLP has moved in at least 3 of its checkpoints.")
    steps, cost = [each.step for each in found], len(found) * num_evaluation
    record = {
        **{"target": target, "steps": steps, "accuracies": accuracies},
        **{"evaluation_rollouts": cost, "rollouts": rows[steps[-1]]["rollouts"] + cost},
        **{"matrices": len(path.r2), "left_at_base": path.left, "r2": statistics.median(path.r2)},
        **{"seconds": time.perf_counter() - started, "accuracy": None, "accuracy_stderr": None},
    }
    write_json(directory / RECORD, record)
    return record


class _Path:
    """The tensors of the extrapolated model, read and predicted one at a time, and what was found on the way."""

    def __init__(self, base: str, checkpoints: list[Checkpoint], accuracies: list[float], target: float) -> None:
        self.pairs: list[Pair] = [open_pair(base, each.directory) for each in checkpoints]
        self.accuracies, self.target = accuracies, target
        self.r2: list[float] = []
        self.left: list[str] = []

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        pair = self.pairs[-1]
        matrices: dict[str, list[str]] = {}
        for matrix in pair.matrices:
            if locate(matrix).kind in ("attention", "mlp"):
                matrices.setdefault(split_expert(matrix)[0], []).append(matrix)
        for name in pair.names:
            tensor = pair.base.read(name)
            if name in matrices:
                weights = tensor.double()
                for matrix in matrices[name]:
                    expert = split_expert(matrix)[1]
                    self._move(matrix, weights if expert is None else weights[expert])
                tensor = round_to(weights, pair.dtype(name))
            yield name, tensor if not tensor.is_floating_point() else tensor.to(pair.dtype(name))

    def _move(self, name: str, weight_MN: torch.Tensor) -> None:
        """Add the predicted update to the base's weight, in place."""
        vectors = [singular_vectors(pair.delta(name), k=1) for pair in self.pairs]
        update = extrapolate_rank_one(vectors, self.accuracies, self.target)
        if update is None:
            self.left.append(name)
            return
        weight_MN += torch.outer(update.column, update.right)
        self.r2.append(update.r2)
