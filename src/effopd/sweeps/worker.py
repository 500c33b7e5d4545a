"""A worker, which evaluates cells: it holds a checkpoint in memory and applies the interventions there."""

import gzip
import json
import math
import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers.utils import logging as transformers_logging

import effopd.evaluation as evaluation
from effopd.checkpoints import Pair, open_pair
from effopd.checkpoints.model import open_model, untie
from effopd.errors import UnsupportedError
from effopd.evaluation.settings import TaskSettings
from effopd.evaluation.vllm_backend import VLLMBackend
from effopd.interventions import LiveModel, RealisedByKind, UpdateNorms, make_intervention, update_norms
from effopd.interventions.realised import Dtype, dtype_names
from effopd.interventions.stored import stored_parameters
from effopd.interventions.window import in_window
from effopd.models.directory import weights_kind
from effopd.models.load import load_model, load_tokenizer
from effopd.sweeps.cells import REALISED, REFERENCES, Cell, Resident
from effopd.sweeps.tokenizers import tokenizer_directory

_NORMAL = 1.959964  # 97.5 % quantile of the normal distribution
_ENGINE = {"gpu_memory_utilization": 0.5}  # the model in memory, where interventions are applied, needs the rest


@dataclass(frozen=True)
class CellSettings:
    """Settings that all cells of a sweep share.

    Attributes:
        base: Directory or hub name of the base.
        teacher: Directory or hub name of the teacher; None if there is none.
        tasks: How each task is put to a model, by its name.
        backend: Backend that samples, `hf` or `vllm`.
        engine: Arguments of `vllm.LLM`, by name.
        completions: Whether completions are returned.
        dtype: `float32` or `stored`: what holds the models that are evaluated. The teacher is held as it is stored.
        device: Device that models are on, `cpu` or `cuda`.
        one_thread: Whether torch uses one thread only.
    """

    base: str
    teacher: str | None = None
    tasks: Mapping[str, TaskSettings] = field(default_factory=dict)
    backend: str = "hf"
    engine: Mapping[str, Any] = field(default_factory=dict)
    completions: bool = True
    dtype: Dtype = "stored"
    device: str = "cpu"
    one_thread: bool = False


class CellOutcome(NamedTuple):
    """What became of a cell.

    Attributes:
        measured: Measured columns of its row; None after an error.
        error: The error; None if there was none.
        completions: JSON Lines of `ExampleRecord`, compressed by gzip; None if they are not kept.
    """

    measured: dict[str, Any] | None
    error: str | None
    completions: bytes | None = None


class Worker:
    """Evaluates cells one after the other. What the next cell needs again stays in memory.

    Nothing is loaded before the first cell.

    Args:
        settings: Settings that the cells share.
    """

    def __init__(self, settings: CellSettings) -> None:
        self._settings = settings
        self._resident: Resident | None = None
        self._loaded: _Loaded | None = None
        self._base: dict[str, torch.Tensor] = {}
        self._norms: Callable[[str], UpdateNorms] = cache(lambda model: update_norms(settings.base, model))
        self._task: Callable[[str], Any] = cache(lambda name: settings.tasks[name].load())
        self._teacher: Any = None
        self._engine: VLLMBackend | None = None
        if settings.one_thread:
            torch.set_num_threads(1)

    def ready(self) -> str:
        """Tell where the worker runs, as `node/process`. An answer means that it does run.

        Raises:
            UnsupportedError: The worker is to use a GPU, and there is none.
        """
        if self._settings.device == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError(f"torch {torch.__version__} finds no CUDA device on {platform.node()}.")
        return f"{platform.node()}/{os.getpid()}"

    def attempt(self, cell: Cell) -> CellOutcome:
        """Evaluate a cell. After an exception, which becomes the outcome's error, nothing is kept in memory."""
        try:
            return self.run(cell)
        except Exception as error:
            self._loaded, self._resident = None, None
            where = traceback.extract_tb(error.__traceback__)[-1]
            return CellOutcome(None, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})")

    def run(self, cell: Cell) -> CellOutcome:
        """Evaluate a cell.

        Args:
            cell: The cell.

        Returns:
            The outcome, with the measured columns of a row (see `effopd.sweeps.results.SCHEMA`).
        """
        start = time.monotonic()
        loaded = self._load(cell)
        load_seconds = time.monotonic() - start
        interventions = [
            make_intervention(kind, {name: self._referred(name, value) for name, value in fields.items()})
            for entry in cell.interventions
            for kind, fields in entry.items()
        ]
        settings = self._settings
        asked = settings.tasks[cell.task]
        with loaded.live.intervened(*interventions) as realised:
            result = evaluation.evaluate(
                loaded.model,
                loaded.tokenizer,
                self._task(cell.task),
                num_samples=asked.num_samples,
                seed=cell.seed,
                batch_size=asked.batch_size,
                temperature=asked.temperature,
                teacher=self._load_teacher() if cell.kl else None,
                backend=self._follow(loaded, cell) if settings.backend == "vllm" else None,
            )
        measured = {
            **_measures(result),
            "layer_norm": _window_norm(cell, self._norms(str(cell.directory))),
            **_realised_columns(realised),
            "changed_fraction": loaded.changed_fraction,
            "dtype": dtype_names(parameter.dtype for parameter in loaded.model.parameters()),
            "sampled_by": self._sampled_by(loaded.model),
            "load_seconds": load_seconds,
            "seconds": time.monotonic() - start,
            "node": self.ready(),
        }
        return CellOutcome(measured, None, _compressed(result.records) if settings.completions else None)

    def _follow(self, loaded: "_Loaded", cell: Cell) -> VLLMBackend:
        """Give the engine, which is made for the first cell, the weights that the model has at this moment."""
        if self._engine is None:
            adapter = weights_kind(cell.directory) == "adapter"
            name = self._settings.base if adapter else str(cell.directory)
            own = {"dtype": str(loaded.model.dtype).removeprefix("torch.")}
            arguments: dict[str, Any] = {**_ENGINE, **own, **self._settings.engine}
            self._engine = VLLMBackend(name, loaded.tokenizer, follows=True, **arguments)
        self._engine.follow(loaded.model, stored_parameters(loaded.model))
        return self._engine

    def _sampled_by(self, model: Any) -> str:
        """Say what sampled, with its dtype, and for vLLM how it got the weights."""
        if self._engine is None:
            return f"hf, {str(model.dtype).removeprefix('torch.')}"
        return f"vllm, {self._engine.dtype}, {'in place' if self._engine.in_place else 'reloaded'}"

    def _referred(self, field: str, value: Any) -> Any:
        """Put norms in the place of a field's model whose norms are wanted, so that each model is read only once."""
        return self._norms(str(value)) if field in REFERENCES and value else value

    def _load(self, cell: Cell) -> "_Loaded":
        if self._loaded is None or self._resident != cell.resident:
            self._loaded, self._resident = None, None  # so that two models are never in memory at a time
            self._loaded = self._load_checkpoint(cell)
            self._resident = cell.resident
        return self._loaded

    def _load_checkpoint(self, cell: Cell) -> "_Loaded":
        settings = self._settings
        pair = open_pair(settings.base, cell.directory)
        adapter = weights_kind(cell.directory) == "adapter"
        source = settings.base if adapter else cell.directory
        model = _load_model(source, settings.dtype).to(settings.device).eval()
        parameters = stored_parameters(model)
        if adapter:
            _merge(pair, parameters)
        tokenizer = load_tokenizer(tokenizer_directory(cell.directory, settings.base), require_pad_token=False)
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        if self._base.keys() != shapes.keys():
            reader = untie(open_model(settings.base), shapes)
            self._base = {name: reader.read(name) for name in shapes if name in reader.tensors}
        live = LiveModel(model, self._base)
        return _Loaded(model, tokenizer, live, live.changed_fraction())

    def _load_teacher(self) -> Any:
        if self._teacher is None:
            assert self._settings.teacher is not None
            self._teacher = _load_model(self._settings.teacher, "stored").to(self._settings.device).eval()
        return self._teacher


def _measures(result: evaluation.Evaluation) -> dict[str, Any]:
    low, high = result.interval
    kl, kl_width = result.kl_per_token, _NORMAL * (result.kl_per_token_standard_error or 0.0)
    return {
        "num_problems": len({record.prompt for record in result.records}),
        "mean": result.mean,
        "standard_error": result.standard_error,
        "low": low,
        "high": high,
        "kl_per_token": kl,
        "kl_low": None if kl is None else max(0.0, kl - kl_width),
        "kl_high": None if kl is None else kl + kl_width,
        "kl_per_sequence": result.kl_per_sequence,
        "num_tokens": result.num_tokens,
        "truncation_rate": result.truncation_rate,
    }


def _compressed(records: list[evaluation.ExampleRecord]) -> bytes:
    """Write records as JSON Lines and compress them, so that equal records give equal bytes."""
    lines = "".join(json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records)
    return gzip.compress(lines.encode("utf-8", "backslashreplace"), mtime=0)


class _Loaded(NamedTuple):
    model: Any
    tokenizer: Any
    live: LiveModel
    changed_fraction: float


def _load_model(directory: str | Path, dtype: Dtype) -> Any:
    """Load a model without a progress bar, of which a sweep would show too many."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return load_model(directory, dtype="auto" if dtype == "stored" else dtype)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def _merge(pair: Pair, parameters: Mapping[str, torch.Tensor]) -> None:
    """Give a base in memory the weights that it has together with an adapter, each rounded once to its dtype there."""
    for name in pair.names:
        if name in parameters:
            parameters[name].copy_(pair.read(name, parameters[name].dtype)[1])
        elif name in pair.lora or pair.trained.tensors[name] != pair.base.tensors[name]:
            raise UnsupportedError(
                f"The adapter changes {name}, which the base ties to another weight. Merge the adapter with PEFT "
                "(`merge_and_unload`, `save_pretrained`) and name the merged model."
            )


def _realised_columns(realised: RealisedByKind) -> dict[str, float | None]:
    columns: dict[str, float | None] = {}
    for kind, each in realised.with_total().items():
        values = (each.intended_norm, each.realised_norm, each.relative_error)
        prefix = "" if kind == "total" else f"{kind}_"
        columns |= {f"{prefix}{column}": value for column, value in zip(REALISED, values, strict=True)}
    return columns


def _window_norm(cell: Cell, norms: UpdateNorms) -> float | None:
    """Compute the norm of the trained update of a window's module in its central layer alone; None without a window."""
    windows = [entry["window"] for entry in cell.interventions if "window" in entry]
    if not windows:
        return None
    module, centre = windows[0]["module"], windows[0]["centre"]
    return math.hypot(*(norms[name] for name in norms if in_window(name, module, centre, 0)))
