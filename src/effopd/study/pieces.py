"""Pieces of a world that do not depend on one another, so that workers do them side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from effopd.evaluation import load_task
from effopd.linearize import linearize
from effopd.study.plan import Training
from effopd.study.pool import Piece


def view_piece(world: str, seed: int, sizes: Mapping[str, Any], directory: Path) -> Piece:
    """Make the piece that measures a world's local quadratic view, on prompts that are this seed's own."""
    return Piece(f"linearized-{seed}", _measure, (world, seed, sizes, directory.resolve()))


def run_piece(training: Training, directory: Path) -> Piece:
    """Make the piece that does a training run."""
    return Piece(training.name, _train, (training, directory.resolve()))


def _measure(world: str, seed: int, sizes: Mapping[str, Any], directory: Path) -> None:
    task = load_task(f"world:{world}/train", limit=sizes["max_contexts"] + sizes["max_fresh_contexts"], seed=seed)
    models = (f"world:{world}/base", f"world:{world}/teacher")
    linearize(*models, directory, task=task, seed=seed, console=Console(quiet=True), **sizes)


def _train(training: Training, directory: Path) -> None:
    from effopd.study.training import do_training  # imported here, so that only workers import TRL

    do_training(training, directory)
