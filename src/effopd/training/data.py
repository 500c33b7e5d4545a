"""Loading prompts, and their answers if there are any, from files, the hub or the embedded world."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, ReadInstruction, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetsError

from effopd.errors import ConfigurationError, DataError, shown
from effopd.files import kind_of_file
from effopd.models.find import local_path

logger = logging.getLogger(__name__)

DEFAULT_WORLD_PROMPTS = 8192
"""Number of prompts drawn from the embedded world when no limit is given."""

Message = dict[str, str]
Prompt = str | list[Message]


def load_prompts(
    path_or_name: str | Path,
    *,
    split: str = "train",
    config_name: str | None = None,
    prompt_column: str = "prompt",
    answer_column: str = "answer",
    answer_after: str | None = None,
    require_answer: bool = False,
    system_prompt: str | None = None,
    prompt_template: str | None = None,
    limit: int | None = None,
) -> Dataset:
    r"""Load prompts and answers, checking every row before anything is trained on them.

    Args:
        path_or_name: File that ends in `.jsonl`, `.json` (an array of objects) or `.parquet`, directory of such files
            laid out as on the hub, name of a hub dataset, or `world`, `world:SPLIT` or `world:WORLD/SPLIT`, such
            as `world:facts/train`, for problems of an embedded world.
        split: Split of a directory, a hub dataset or `world`; a single file has none.
        config_name: Configuration of a directory or hub dataset.
        prompt_column: Column of the prompts: texts, or lists of `{"role": ..., "content": ...}` that end with the
            user's message.
        answer_column: Column of the answers: texts or numbers. There need not be one of the default name, unless
            `require_answer` is set.
        answer_after: Mark after whose last occurrence the answer follows, such as `####` in GSM8K.
        require_answer: Whether every row must have an answer.
        system_prompt: System message that makes a conversation of a text prompt, in which the text is the user's
            message; with `""`, the conversation has no system message. Prompts that are conversations must have no
            system message yet.
        prompt_template: Text around a text prompt or the last user message, such as
            `"{prompt}\nEnd with \\boxed{{}}."`.
        limit: Number of rows to take, from the first on; without it all, or `DEFAULT_WORLD_PROMPTS` of the world.

    Returns:
        A dataset with the columns `prompt` (all text, or all messages), `answer` (text or None; absent if the source
        has none) and the source's other columns, `answer_column` included, for rewards that ask for it by that name.

    Raises:
        ConfigurationError: An argument cannot be right.
        DataError: The source cannot be read, or a row is not as described. Rows are counted from 1.
    """
    if limit is not None and limit < 1:
        raise ConfigurationError(f"limit: got {limit}, expected at least 1 row.")
    apply_template = _template(prompt_template)
    table = _read(path_or_name, split, config_name, limit)
    columns = list(table.column_names if isinstance(table, Dataset) else table)
    if not columns or not table[columns[0]][:1]:
        raise DataError(f"{path_or_name}: no rows; expected at least one prompt.")
    answer_needed = require_answer or answer_after is not None or answer_column != "answer"
    for column in [prompt_column, *([answer_column] if answer_needed else [])]:
        if column not in columns:
            raise DataError(
                f"{path_or_name}: no column {column!r}; there are {', '.join(columns) or 'none'}. Set prompt_column and"
                " answer_column."
            )
    prompts = table[prompt_column][:limit]
    where = f"{path_or_name}, column {prompt_column!r}, row"
    checked = [_check_prompt(prompt, f"{where} {row}") for row, prompt in enumerate(prompts, 1)]
    for row, prompt in enumerate(checked, 1):
        if isinstance(prompt, str) != isinstance(checked[0], str):
            raise DataError(f"{where} {row}: rows 1 and {row} mix text and messages; write all prompts in one way.")
    prepared: dict[str, list[Any]] = {
        "prompt": [
            _prepare(prompt, system_prompt, apply_template, f"{where} {row}") for row, prompt in enumerate(checked, 1)
        ]
    }
    if answer_column in columns:
        where = f"{path_or_name}, column {answer_column!r}, row"
        answers = table[answer_column][:limit]
        prepared["answer"] = [
            _check_answer(answer, answer_after, require_answer, f"{where} {row}")
            for row, answer in enumerate(answers, 1)
        ]
    others = [column for column in columns if column not in (prompt_column, *prepared)]
    return _with_columns(Dataset.from_dict(prepared), table, others, path_or_name)


def warn_of_long_prompts(dataset: Dataset, tokenizer: Any, context: int, completion: int) -> None:
    """Warn if the prompt with the most characters leaves too little room for a completion.

    Args:
        dataset: Prompts.
        tokenizer: Tokenizer of the student.
        context: Number of tokens that the student was made for.
        completion: Largest number of tokens in a completion.
    """
    longest = max(dataset["prompt"], key=lambda prompt: len(str(prompt)))
    if not isinstance(longest, str):
        longest = tokenizer.apply_chat_template(longest, tokenize=False, add_generation_prompt=True)
    if (length := len(tokenizer(longest)["input_ids"])) + completion > context:
        logger.warning(
            "The longest prompt has %d tokens; with max_completion_length=%d that is more than the %d tokens that the "
            "student was made for. Remove long prompts, or lower max_completion_length.",
            length,
            completion,
            context,
        )


def _read(
    path_or_name: str | Path, split: str, config_name: str | None, limit: int | None
) -> Dataset | dict[str, list[Any]]:
    """Read a dataset, or the columns of a JSON file, whose rows are checked before Arrow asks for uniform types."""
    if str(path_or_name).partition(":")[0] == "world":
        from effopd.world import make_dataset, split_name, task_config

        world, world_split = split_name(str(path_or_name))
        wanted = cast(Any, world_split or split)
        return make_dataset(wanted, limit or DEFAULT_WORLD_PROMPTS, config=task_config(world))
    path = local_path(path_or_name)
    if path is not None and path.is_file():
        return _sliced(_read_file(path), split, path)
    try:
        return load_dataset(str(path or path_or_name), config_name, split=split)
    except (OSError, ValueError, DatasetsError) as error:
        if path is not None:  # for a broken JSON file, this raises an error that names the line
            for file in sorted([*path.rglob("*.json"), *path.rglob("*.jsonl")]):
                _read_json(file)
        of_configuration = f" of configuration {config_name!r}" if config_name else ""
        remedy = (
            "."
            if path
            else ". There is no such file or directory here, so it was looked up on the hub. Check the name; without a "
            "network, download it elsewhere and pass the directory."
        )
        raise DataError(
            f"{path_or_name}: cannot load split {split!r}{of_configuration}: {str(error).rstrip('.')}{remedy}"
        ) from error


def _sliced(table: Dataset | dict[str, list[Any]], split: str, path: Path) -> Dataset | dict[str, list[Any]]:
    """Take the slice that a split such as `train[-500:]` asks for; a file has one split, whatever it is called."""
    if "[" not in split:
        return table
    number = len(table) if isinstance(table, Dataset) else len(next(iter(table.values()), []))
    name = split.partition("[")[0]
    try:
        (part,) = ReadInstruction.from_spec(split).to_absolute({name: number})
    except ValueError as error:
        raise ConfigurationError(
            f"{path}: got the split {split!r} ({error}); expected one as 'train[:-500]'."
        ) from error
    if isinstance(table, Dataset):
        return table.select(range(part.from_, part.to) or [])
    return {column: values[part.from_ : part.to] for column, values in table.items()}


def _read_file(path: Path) -> Dataset | dict[str, list[Any]]:
    if path.suffix == ".parquet":
        try:
            return Dataset(pq.read_table(path))
        except pa.ArrowException as error:
            raise DataError(f"{path}: not a parquet file, or a damaged one: {error}") from error
    if path.suffix in (".json", ".jsonl"):
        return _read_json(path)
    raise DataError(f"{path}: {kind_of_file(path)}, expected one whose name ends in .jsonl, .json or .parquet.")


def _read_json(path: Path) -> dict[str, list[Any]]:
    """Read the columns of a file with one JSON object per line, or with one array of objects."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); save it as UTF-8.") from error
    rows: list[Any] = []
    number = 1
    try:
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:
            lines = text.split("\n")
            for number in range(1, len(lines) + 1):
                if lines[number - 1].strip():
                    rows.append(json.loads(lines[number - 1]))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {number + error.lineno - 1}, column {error.colno}: not JSON: {error.msg}. Expected one"
            " object per line, or one array of objects."
        ) from error
    for row, contents in enumerate(rows, 1):
        if not isinstance(contents, dict):
            raise DataError(f"{path}, row {row}: got {shown(contents)}, expected a JSON object.")
    columns = dict.fromkeys(column for contents in rows for column in contents)
    return {column: [contents.get(column) for contents in rows] for column in columns}


def _check_prompt(prompt: Any, where: str) -> Prompt:
    """Check a prompt, and reduce its messages to role and content."""
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise DataError(f"{where}: the prompt is empty; remove the row or fill it in.")
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list):
        raise DataError(f"{where}: got {shown(prompt)}, expected text or a list of messages.")
    messages = []
    for message in prompt:
        given = (
            {key: value for key, value in message.items() if value is not None} if isinstance(message, Mapping) else {}
        )
        if given.keys() != {"role", "content"} or not all(isinstance(value, str) for value in given.values()):
            raise DataError(
                f'{where}: got the message {shown(message)}, expected {{"role": "user", "content": "..."}}, both text,'
                " and nothing else."
            )
        messages.append({"role": given["role"], "content": given["content"]})
    if messages[-1]["role"] != "user":
        raise DataError(
            f"{where}: the last message is from {messages[-1]['role']!r}, expected 'user': the model answers it. Remove"
            " the answer from the prompt."
        )
    if not messages[-1]["content"].strip():
        raise DataError(f"{where}: the last message is empty; remove the row or fill it in.")
    return messages


def _prepare(prompt: Prompt, system_prompt: str | None, apply_template: Callable[[str], str], where: str) -> Prompt:
    """Apply the template to a prompt, and put the system message before it."""
    if isinstance(prompt, str):
        text = apply_template(prompt)
        if system_prompt is None:
            return text
        messages = [{"role": "user", "content": text}]
    else:
        messages = [*prompt[:-1], {"role": "user", "content": apply_template(prompt[-1]["content"])}]
    if system_prompt:
        if messages[0]["role"] == "system":
            raise DataError(f"{where}: the prompt has a system message already; leave out system_prompt.")
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def _template(template: str | None) -> Callable[[str], str]:
    """Check a prompt template, and make the function that applies it."""
    if template is None:
        return lambda prompt: prompt
    try:
        if "\0" not in template.format(prompt="\0"):
            raise KeyError("{prompt} does not occur")
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigurationError(
            f"prompt_template: got {template!r} ({error}); expected {{prompt}} in it, and every other brace doubled."
        ) from error
    return lambda prompt: template.format(prompt=prompt)


def _check_answer(answer: Any, answer_after: str | None, required: bool, where: str) -> str | None:
    """Check an answer, and keep of it what follows the mark."""
    if answer is None and not required:
        return None
    if not isinstance(answer, str | int | float):
        raise DataError(f"{where}: got {shown(answer)}, expected text or a number.")
    text = str(answer)
    if answer_after is not None:
        _, mark, text = text.rpartition(answer_after)
        if not mark:
            raise DataError(f"{where}: {shown(answer)} does not contain answer_after={answer_after!r}.")
        text = text.strip()
    if required and not text.strip():
        raise DataError(f"{where}: the answer is empty; remove the row or fill it in.")
    return text


def _with_columns(
    dataset: Dataset, table: Dataset | dict[str, list[Any]], names: list[str], path_or_name: str | Path
) -> Dataset:
    """Put further columns of the table beside those of the dataset, for as many rows as the dataset has."""
    if not names:
        return dataset
    if isinstance(table, Dataset):
        rest = table.select_columns(names).select(range(len(dataset)))
    else:
        try:
            rest = Dataset.from_dict({name: table[name][: len(dataset)] for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                f"{path_or_name}: one of {names} mixes types: {error}; write each column in one type."
            ) from error
    return concatenate_datasets([dataset, rest], axis=1)
