"""`effopd linearize`: the local quadratic view of a student and its teacher, from their names to a report.

`linearized` computes and `report` draws. This module samples the contexts as training does, and joins them. Each stage
is kept when it is finished, and so is each product of the Lanczos method, so that an interrupted command goes on.
"""

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from effopd.checks import check_number, check_whole
from effopd.console import print_places
from effopd.errors import ConfigurationError, DataError, listing
from effopd.evaluation.backends import TransformersBackend
from effopd.evaluation.dataset_rows import read_rows
from effopd.evaluation.file_tasks import check_prompt
from effopd.evaluation.prompts import encode_prompts
from effopd.evaluation.resume import task_digest
from effopd.evaluation.settings import TaskSettings
from effopd.evaluation.task import Task
from effopd.files import expanded, replaced, write_json
from effopd.grading import grade_math
from effopd.linearized.contexts import Contexts, make_contexts
from effopd.linearized.covariance import distillation, gradient_spread
from effopd.linearized.root import GaussNewtonRoot, completion_logits
from effopd.linearized.stages import Stages, clean_up
from effopd.models.device import choose_device
from effopd.models.directory import weights_digest
from effopd.models.find import find_model
from effopd.models.load import load_config, load_model, load_tokenizer
from effopd.models.vocabulary import align_logits, check_vocabularies, vocabulary_size
from effopd.report.linearized import write_linearized_report
from effopd.run_directory import claimed
from effopd.sampling import derived_seed, evaluation_mode
from effopd.versions import installed_versions

RESULT, CONTEXTS, FRESH = "linearized.json", "contexts.safetensors", "fresh_contexts.safetensors"
PILOT = 32
"""Number of contexts by which the number of all is chosen."""
FEWEST_FRESH = 3
"""Smallest number of fresh contexts by which shares and their errors can be told."""
MAX_NEW_TOKENS = 4096
"""Limit on the tokens of a completion for a file of prompts, unless another is given."""
_SETTINGS = "settings.json"
_PACKAGES = ("effopd", "torch", "transformers", "datasets", "math-verify")


def linearize(
    student: str,
    teacher: str,
    out: Path,
    *,
    task: str | Task | None = None,
    prompts: Path | None = None,
    checkpoints: Mapping[str, str] | None = None,
    standard_error: float = 0.1,
    max_contexts: int = 256,
    max_fresh_contexts: int = 256,
    num_steps: int = 60,
    micro_batch: int = 8,
    max_new_tokens: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    chat: bool = False,
    system_prompt: str | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    device: str | None = None,
    pad_token: str | None = None,
    console: Console | None = None,
) -> Path:
    """Measure the local quadratic view (arXiv 2605.11739, appendix on linearised dynamics), or continue to.

    Weights are computed with in float32, whatever they are stored in. Beside the student and two vectors of its size,
    `num_steps` vectors of tokens x vocabulary numbers are held, in memory and, until the end, in `out`.

    Args:
        student: Directory or hub name of the student before training, `world:base` and the like.
        teacher: Directory or hub name of its teacher, which has the same tokenizer.
        out: Directory of the results: `contexts.safetensors`, `linearized.json`, `linearized.html` and `figures/`.
        task: Task whose first prompts are taken, or its name, as `effopd evaluate` takes it. The reward of RL is its
            grader's verdict. What follows about limits and chat templates is for tasks that are given by name.
        prompts: File of prompts in its place, whose rows need no answers; nothing is then said of RL.
        checkpoints: Directories of models that were trained from the student, by name.
        standard_error: Standard error of b that is aimed at, relative to the norm of b, above 0. The number of contexts
            follows from the first 32.
        max_contexts: Largest number of contexts, one for each prompt, at least 2.
        max_fresh_contexts: Largest number of other contexts, of the prompts after these, by which shares of b are freed
            of the noise of their number; chosen likewise. At least 3, or 0, which samples none.
        num_steps: Number of products with A in the Lanczos method, at least 2.
        micro_batch: Number of contexts that go through a model at a time, at least 1.
        max_new_tokens: Limit on the tokens of a completion, in place of the task's own; 4096 for a file of prompts.
        temperature: Sampling temperature, by which all logits are divided, as in training; above 0.
        seed: Random seed, at least 0.
        chat: Whether to put text prompts into the chat template, as training on messages does.
        system_prompt: Text of the system's message that comes before each prompt; only with `chat`.
        chat_template_kwargs: What the chat template is given besides the messages, by name; only with `chat`.
        device: Device that computes; by default `cuda` where there is one, else `cpu`.
        pad_token: Padding token, for a tokenizer that names none.
        console: Console that is told of the progress; standard output by default.

    Returns:
        The path of `linearized.json`.

    Raises:
        CheckpointError: `out` holds something else, or results of other settings.
        ConfigurationError: A setting is wrong.
        DataError: A model or the data cannot be read, or there are fewer than two prompts.
        UnsupportedError: A package that is needed is not installed, or the model's attention has no forward
            derivatives.
    """
    check_number("standard_error", standard_error, above=0)
    check_number("temperature", temperature, above=0)
    for name, value, low in (
        ("max_contexts", max_contexts, 2),
        ("max_fresh_contexts", max_fresh_contexts, FEWEST_FRESH if max_fresh_contexts else 0),
        ("num_steps", num_steps, 2),
        ("micro_batch", micro_batch, 1),
        ("seed", seed, 0),
    ):
        check_whole(name, value, low)
    if (task is None) == (prompts is None):
        raise ConfigurationError("Give either a task or a file of prompts: --task TASK or --prompts FILE.")
    console, chosen_device = console or Console(highlight=False), choose_device(device)
    loaded = task
    if not isinstance(task, Task):
        asked = TaskSettings(
            task=task or str(prompts),
            limit=max_contexts + max_fresh_contexts,
            chat=chat,
            system_prompt=system_prompt,
            chat_template_kwargs=chat_template_kwargs,
            max_new_tokens=max_new_tokens,
        )
        loaded = asked.load() if prompts is None else _prompts_only(expanded(prompts), asked)
    assert isinstance(loaded, Task)
    graded = prompts is None
    places = {"student": find_model(student), "teacher": find_model(teacher)}
    runs = {name: find_model(each) for name, each in (checkpoints or {}).items()}
    tokenizer = load_tokenizer(places["student"], pad_token=pad_token)
    configs = [load_config(each) for each in places.values()]
    check_vocabularies(tokenizer, load_tokenizer(places["teacher"], pad_token=pad_token), *configs)
    _check_checkpoints(runs, places["student"], values=not (out / RESULT).exists())
    settings = {
        **{name: str(place) for name, place in places.items()},
        **{f"{name}_files": weights_digest(place) for name, place in places.items()},
        "checkpoints": {name: [str(place), weights_digest(place)] for name, place in runs.items()},
        "task": loaded.name,
        "task_digest": task_digest(loaded),
        "graded": graded,
        "standard_error": standard_error,
        "max_contexts": max_contexts,
        "max_fresh_contexts": max_fresh_contexts,
        "num_steps": num_steps,
        "max_new_tokens": loaded.max_new_tokens,
        "temperature": temperature,
        "seed": seed,
        "chat_template_kwargs": chat_template_kwargs,
    }
    with claimed(out, _SETTINGS, settings, holds="a linearisation"):
        if not (out / RESULT).exists():
            if graded:
                loaded.check_grader()
            models = [load_model(places["student"], attn_implementation="eager"), load_model(places["teacher"])]
            base, guide = (model.to(chosen_device).eval() for model in models)
            sampler = _Sampler(base, guide, tokenizer, loaded, temperature, seed, micro_batch)
            contexts, fresh = _contexts(out, sampler, standard_error, max_contexts, max_fresh_contexts, console)
            root, teacher_TV = sampler.linearised(contexts)
            others = sampler.linearised(fresh) if fresh else None
            del guide, models, sampler.teacher
            stages = Stages(out, root, teacher_TV, num_steps=num_steps, seed=seed, fresh=others, note=console.print)
            rewards = _rewards(loaded, tokenizer, contexts) if graded else None
            results = stages.measure(rewards, {name: partial(_parameters, place) for name, place in runs.items()})
            write_json(
                out / RESULT,
                {
                    **settings,
                    "num_contexts": len(contexts.input_ids),
                    "num_tokens": contexts.num_tokens,
                    **results,
                    "versions": installed_versions(_PACKAGES),
                },
            )
        clean_up(out)  # an earlier start may have been killed before it could
        page = write_linearized_report(out)
    print_places(console, {"Report": page, "Numbers": out / RESULT, "Contexts": out / CONTEXTS})
    return out / RESULT


class _Sampler:
    """Samples contexts from the student, and reads them with the teacher."""

    def __init__(
        self,
        student: PreTrainedModel,
        teacher: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        temperature: float,
        seed: int,
        micro_batch: int,
    ) -> None:
        self.student, self.teacher = student, teacher
        self._backend = TransformersBackend(student, tokenizer)
        self.prompts = encode_prompts(tokenizer, task.prompts, task.chat_template_kwargs)
        self._limit = task.max_new_tokens
        self._temperature, self._seed, self._micro_batch = temperature, seed, micro_batch
        if len(self.prompts) < 2:
            raise DataError(f"{task.name} has one prompt; expected at least two, of which the spread can be measured.")

    def sample(self, first: int, end: int) -> Contexts:
        """Sample one completion for each of the prompts first, ..., end - 1, always the same ones for a prompt."""
        completions: list[list[int]] = []
        skipped = first // PILOT * PILOT
        for batch, start in enumerate(range(0, len(self.prompts), PILOT)):
            if skipped <= start < end:
                seed = derived_seed(self._seed, batch)
                sampled = self._backend.complete(
                    self.prompts[start : start + PILOT],
                    seed,
                    max_new_tokens=self._limit,
                    temperature=self._temperature,
                )
                completions += [each.token_ids for each in sampled]
        return make_contexts(self.prompts[first:end], completions[first - skipped : end - skipped])

    def linearised(self, contexts: Contexts) -> tuple[GaussNewtonRoot, Tensor]:
        """Linearise the student at contexts, and compute the teacher's logits there, divided by the temperature."""
        root = GaussNewtonRoot(self.student, contexts, micro_batch=self._micro_batch, temperature=self._temperature)
        width = vocabulary_size(self.student.config)
        with evaluation_mode(self.teacher):
            parts = [align_logits(completion_logits(self.teacher, batch), width) for batch, _ in root.parts()]
        return root, torch.cat(parts) / self._temperature


def _contexts(
    out: Path, sampler: _Sampler, standard_error: float, most: int, most_fresh: int, console: Console
) -> tuple[Contexts, Contexts | None]:
    """Take the contexts that are there, or sample as many as the spread of the first ones asks for; and fresh ones."""
    if (out / CONTEXTS).exists():  # which is written last
        return Contexts(**load_file(out / CONTEXTS)), _read_fresh(out)
    most = min(most, len(sampler.prompts))
    contexts = sampler.sample(0, min(PILOT, most))
    root, teacher_TV = sampler.linearised(contexts)
    spread = gradient_spread(root, distillation(teacher_TV))
    squared, count = spread.squared_mean, len(contexts.input_ids)
    wanted = math.ceil(spread.trace / squared / standard_error**2) if squared > 0 else None
    if wanted is None or wanted > most:
        asked = f"a number that {count} do not tell" if wanted is None else f"about {wanted:,}"
        console.print(f"A standard error of {standard_error:g} would take {asked} of contexts; taking {most:,}.")
    if (number := min(wanted or most, most)) > count:
        contexts = sampler.sample(0, number)
    first = len(contexts.input_ids)
    end = min(first + min(max(wanted or most_fresh, PILOT), most_fresh), len(sampler.prompts))
    fresh = None
    if end - first >= FEWEST_FRESH:
        fresh = sampler.sample(first, end)
        _save(out / FRESH, fresh)
    elif most_fresh:
        console.print(f"{end - first} prompts are left for fresh contexts, and shares of b keep their noise.")
    _save(out / CONTEXTS, contexts)
    return contexts, fresh


def _read_fresh(out: Path) -> Contexts | None:
    return Contexts(**load_file(out / FRESH)) if (out / FRESH).exists() else None


def _save(path: Path, contexts: Contexts) -> None:
    with replaced(path) as temporary:
        save_file({name: each.contiguous() for name, each in contexts._asdict().items()}, temporary)


def _check_checkpoints(places: Mapping[str, Path | str], student: Path | str, values: bool) -> None:
    """Refuse a checkpoint that cannot have been trained from the student, before hours of work and not after them."""

    def shapes(place: Path | str) -> dict[str, torch.Size]:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(load_config(place))
        return {name: each.shape for name, each in model.named_parameters()}

    expected = shapes(student) if places else {}
    for name, place in places.items():
        found = shapes(place)
        if wrong := [key for key in {**expected, **found} if expected.get(key) != found.get(key)]:
            raise DataError(
                f"checkpoint {name}, {place}: {len(wrong)} parameters have another shape than in the student "
                f"{student}, or are in one of the two only: {listing(wrong)}. Give a model trained from the student."
            )
        if values and (broken := [key for key, each in _parameters(place).items() if not each.isfinite().all()]):
            raise DataError(
                f"checkpoint {name}, {place}: not all numbers of {listing(broken)} are finite. Give an earlier one."
            )


def _parameters(place: Path | str) -> dict[str, Tensor]:
    return {name: each.detach() for name, each in load_model(place).named_parameters()}


def _rewards(task: Task, tokenizer: PreTrainedTokenizerBase, contexts: Contexts) -> list[float]:
    """Grade the completions: 1 for those that pass, 0 for the others."""
    rows = zip(contexts.input_ids, contexts.completion_mask.bool(), strict=True)
    texts = tokenizer.batch_decode([ids[mask].tolist() for ids, mask in rows], skip_special_tokens=True)
    return [float(verdict.passed) for verdict in task.grader(texts, task.answers[: len(texts)])]


def _prompts_only(path: Path, asked: TaskSettings) -> Task:
    """Load a file of prompts as a task whose completions cannot be graded."""
    found: list[Any] = [row.get("prompt") for row in read_rows(path, asked.limit)]
    for number, prompt in enumerate(found, start=1):
        check_prompt(prompt, f"{path}, row {number}")
    task = Task(str(path), found, [None] * len(found), grade_math, asked.max_new_tokens or MAX_NEW_TOKENS)
    return task.as_chat(asked.system_prompt, asked.chat_template_kwargs) if asked.chat else task
