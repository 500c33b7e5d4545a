"""`effopd evaluate`: from the names of a model and of a task to a directory of records, a summary and a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from effopd.checkpoints.runs import step_of
from effopd.checks import check_choice
from effopd.console import progress_bar
from effopd.errors import UnsupportedError
from effopd.evaluation.backends import Backend, TransformersBackend
from effopd.evaluation.results import Evaluation, summarize
from effopd.evaluation.resume import SUMMARY, evaluate_in, task_digest
from effopd.evaluation.sample_batches import SampleBatches
from effopd.evaluation.settings import BACKENDS, TaskSettings
from effopd.evaluation.task import Task
from effopd.evaluation.vllm_backend import VLLMBackend
from effopd.files import write_json
from effopd.models.device import choose_device
from effopd.models.directory import weights_digest
from effopd.models.find import find_model
from effopd.models.load import load_config, load_model, load_tokenizer
from effopd.models.vocabulary import check_vocabularies
from effopd.versions import installed_versions

DTYPES = ("auto", "float32", "bfloat16", "float16")
_PACKAGES = ("effopd", "torch", "transformers", "datasets", "math-verify", "vllm", "lm-eval")


def evaluate_model(
    model: str,
    task: str,
    out: Path,
    *,
    num_samples: int = 1,
    backend: Literal["hf", "vllm"] = "hf",
    limit: int | None = None,
    seed: int = 0,
    batch_size: int = 256,
    temperature: float = 1.0,
    max_new_tokens: int | None = None,
    teacher: str | None = None,
    chat: bool = False,
    system_prompt: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    data: Path | None = None,
    dtype: str = "auto",
    device: str | None = None,
    pad_token: str | None = None,
    command: str = "",
    console: Console | None = None,
) -> Evaluation:
    """Evaluate a model, or continue an evaluation that was interrupted.

    Args:
        model: Directory or hub name of the model; `world:base` and `world:teacher` are those of the embedded world, and
            `world:facts/base` and so on those of another one.
        task: Name of the task (see `effopd.evaluation.load_task`). Its problems are the same for every seed.
        out: Directory of the results: `examples.jsonl`, `problems.jsonl`, `summary.json` and `settings.json`.
        num_samples: n of avg@n and pass@n, the number of completions for each problem.
        backend: Backend that generates: `hf` (transformers) or `vllm`.
        limit: Number of problems to take, from the first on; None takes all.
        seed: Random seed for sampling, at least 0.
        batch_size: Number of completions that are generated at a time, at least 1.
        temperature: Sampling temperature, over the whole vocabulary; 0 takes the most probable token.
        max_new_tokens: Limit on the tokens of a completion, in place of the task's own.
        teacher: Model with the same tokenizer, to which the reverse KL is measured; with `hf` only.
        chat: Whether to put text prompts into the model's chat template.
        system_prompt: Text of the system's message that comes before each problem; only with `chat`.
        chat_template_kwargs: What the chat template is given besides the messages, by name; only with `chat`.
        data: File with the rows of a benchmark, in its own columns, in place of those of the hub.
        dtype: Type of the weights: `float32`, `bfloat16`, `float16`, or `auto` for that of the files.
        device: Device for `hf`; by default `cuda` where there is one, else `cpu`.
        pad_token: Padding token, for a tokenizer that names none.
        command: Command line, which is noted in the summary.
        console: Console that the table is printed to; by default standard output.

    Raises:
        CheckpointError: `out` holds something else.
        ConfigurationError: A setting is wrong, or does not go with the others.
        DataError: A model or data cannot be read.
        UnsupportedError: A package that is needed is not installed, or the backend does not support what is asked for.
    """
    check_choice("backend", backend, BACKENDS)
    check_choice("dtype", dtype, DTYPES)
    models = _find_models(model, teacher, backend, dtype, choose_device(device))
    asked = TaskSettings(
        task=task,
        data=None if data is None else str(data),
        limit=limit,
        chat=chat,
        system_prompt=system_prompt,
        chat_template_kwargs=chat_template_kwargs,
        max_new_tokens=max_new_tokens,
        num_samples=num_samples,
        temperature=temperature,
        batch_size=batch_size,
    )
    loaded = asked.load()
    tokenizer = load_tokenizer(models.source, pad_token=pad_token)
    batches = SampleBatches(
        loaded, tokenizer, num_samples=num_samples, seed=seed, batch_size=batch_size, temperature=temperature
    )
    models.check_teacher(tokenizer, pad_token)
    settings = {
        "model": str(models.source),
        "model_files": weights_digest(models.source),
        "task": task,
        "task_digest": task_digest(loaded),
        "num_samples": num_samples,
        "backend": backend,
        "seed": seed,
        "batch_size": batch_size,
        "temperature": temperature,
        "max_new_tokens": loaded.max_new_tokens,
        "teacher": None if models.teacher is None else str(models.teacher),
        "teacher_files": None if models.teacher is None else weights_digest(models.teacher),
        "chat": chat,
        "system_prompt": system_prompt,
        "chat_template_kwargs": chat_template_kwargs,
        "dtype": dtype,
        "device": models.device.type if backend == "hf" else None,
    }
    step = step_of(Path(models.source))  # as it is now: a run that goes on writes other weights and steps there

    def load() -> tuple[Backend, PreTrainedModel | None]:
        loaded.check_grader()
        return models.load(tokenizer)

    with progress_bar() as progress:
        bar = progress.add_task(f"evaluating {task}")
        evaluation, course = evaluate_in(
            out, batches, settings, load, on_batch=lambda done, of: progress.update(bar, completed=done, total=of)
        )
    summary = {
        **settings,
        "step": step,
        **summarize(evaluation),
        **course,
        "versions": installed_versions(_PACKAGES),
        "command": command,
    }
    write_json(out / SUMMARY, summary)
    (console or Console(highlight=False)).print(_table(loaded, evaluation, summary))
    return evaluation


@dataclass(frozen=True)
class _Models:
    """The model to evaluate and its teacher, before they are loaded.

    Attributes:
        source: Directory or hub name of the model.
        teacher: Directory or hub name of the teacher; None if there is none.
        backend: Backend that generates.
        dtype: Type of the weights.
        device: Device for the backend `hf`.
    """

    source: Path | str
    teacher: Path | str | None
    backend: str
    dtype: str
    device: torch.device

    def check_teacher(self, tokenizer: PreTrainedTokenizerBase, pad_token: str | None) -> None:
        """Check that the teacher, if there is one, means the same tokens as the model."""
        if self.teacher is not None:
            of_teacher = load_tokenizer(self.teacher, pad_token=pad_token)  # first: its error tells of a wrong name
            configs = [load_config(each) for each in (self.source, self.teacher)]
            check_vocabularies(tokenizer, of_teacher, *configs)

    def load(self, tokenizer: PreTrainedTokenizerBase) -> tuple[Backend, PreTrainedModel | None]:
        """Load the backend with the model, and the teacher."""
        if self.backend == "vllm":
            return VLLMBackend(str(self.source), tokenizer, dtype=self.dtype), None
        model = load_model(self.source, dtype=self.dtype).to(self.device)
        teacher = None if self.teacher is None else load_model(self.teacher, dtype=self.dtype).to(self.device)
        return TransformersBackend(model, tokenizer), teacher


def _find_models(
    model: str, teacher: str | None, backend: Literal["hf", "vllm"], dtype: str, device: torch.device
) -> _Models:
    if teacher is not None and backend == "vllm":
        raise UnsupportedError(
            "--teacher needs the model's whole distributions, which vLLM does not give: --backend hf."
        )
    return _Models(find_model(model), None if teacher is None else find_model(teacher), backend, dtype, device)


def _table(task: Task, evaluation: Evaluation, summary: dict[str, Any]) -> Table:
    problems, samples = summary["num_problems"], summary["num_samples"]
    table = Table(title=f"{task.name}: {problems:,} problems, {samples} samples each")
    for column in ("", "value", "standard error", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")

    def add(name: str, value: float, error: float | None = None, interval: Sequence[float] | None = None) -> None:
        shown = f"[{interval[0]:.4f}, {interval[1]:.4f}]" if interval else ""
        table.add_row(name, f"{value:.4f}", "" if error is None else f"{error:.4f}", shown.replace("[", r"\["))

    add(f"avg@{samples}", summary["mean"], summary["standard_error"], summary["interval"])
    for k, each in summary["pass_at"].items():
        if int(k) > 1:
            add(f"pass@{k}", each["value"], each["standard_error"], each["interval"])
    add("tokens", summary["num_tokens"])
    add("truncated", summary["truncation_rate"])
    for name in ("kl_per_token", "kl_per_sequence"):
        if name in summary:
            add(f"{name.replace('_', ' ').replace('kl', 'KL')}", summary[name], summary[f"{name}_standard_error"])
    return table
