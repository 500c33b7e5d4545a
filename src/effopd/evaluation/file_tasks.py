"""A local file with prompts and answers, or prompts and tests, as a task."""

from typing import Any

from effopd.errors import DataError
from effopd.evaluation.dataset_rows import read_rows
from effopd.evaluation.task import Task
from effopd.files import expanded
from effopd.grading import grade_code, grade_math, parse_tests
from effopd.grading.compare_text import check_answer

_MAX_NEW_TOKENS = 4096


def load_file(name: str, limit: int | None) -> Task:
    """Load a file of problems: of programming if its first row has `tests`, else of mathematics.

    Args:
        name: Path of the file, which `read_rows` can read.
        limit: Number of problems to take, from the first on; None takes all.

    Raises:
        DataError: The file cannot be read, or a row has no prompt, or no answer or tests that can be graded.
    """
    rows = read_rows(expanded(name), limit)
    code = rows[0].get("tests") is not None
    column = "tests" if code else "answer"
    if missing := [each for each in ("prompt", column) if rows[0].get(each) is None]:
        raise DataError(
            f"{name}, row 1: no {' and no '.join(missing)}; the keys are {', '.join(map(repr, rows[0]))}. Rows need "
            "`prompt`, and `answer` or `tests`."
        )
    for number, row in enumerate(rows, start=1):
        check_prompt(row.get("prompt"), f"{name}, row {number}")
        answer = row.get(column)
        if answer is None or not str(answer).strip():
            raise DataError(f"{name}, row {number}: no {column}; every row needs one, and the first one has {column}.")
        try:
            parse_tests(answer) if code else check_answer(answer)
        except DataError as error:
            raise DataError(f"{name}, row {number}: {error}") from error
    prompts = [row["prompt"] for row in rows]
    answers = [row[column] for row in rows]
    return Task(name, prompts, answers, grade_code if code else grade_math, _MAX_NEW_TOKENS)


def check_prompt(prompt: Any, place: str) -> None:
    """Check that a prompt is text, or messages.

    Raises:
        DataError: It is neither; the message begins with the place.
    """
    is_text = isinstance(prompt, str) and prompt.strip()
    if not is_text and not _are_messages(prompt):
        raise DataError(
            f"{place}: got {str(prompt)[:80]!r} as prompt, expected text, or messages such as"
            ' [{"role": "user", "content": "..."}].'
        )


def _are_messages(prompt: Any) -> bool:
    return (
        isinstance(prompt, list)
        and bool(prompt)
        and all(isinstance(message, dict) and isinstance(message.get("content"), str) for message in prompt)
    )
