"""Public benchmarks: where each is on the hub, and how one of its rows becomes a prompt and an answer.

To add a benchmark, add a line to `BENCHMARKS`. Rows of a local file in the benchmark's own columns take the same way as
those of the hub.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from effopd.errors import DataError
from effopd.evaluation.dataset_rows import Row
from effopd.evaluation.task import Grader
from effopd.grading import grade_code, grade_math
from effopd.grading.choice import grade_choice
from effopd.grading.compare_text import check_answer
from effopd.grading.functions import grade_functions

Convert = Callable[[Row, random.Random], tuple[str, Any] | str]
"""From a row, and random numbers for shuffling, to a prompt and an answer; or to the reason for leaving it out."""

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
_LETTER = "Please reason step by step, and put the letter of your choice within \\boxed{}."
_PROGRAM = "Write a Python program that reads from standard input and prints to standard output. End with the complete"
_FENCE = "```python\n...\n```"


@dataclass(frozen=True)
class Benchmark:
    """A public benchmark.

    Attributes:
        hub: Name of the dataset on the hub; None where `datasets` cannot load it, so that a file is needed.
        config: Configuration of the dataset; None for the default one.
        split: Split of the dataset.
        convert: Function from a row to a prompt and an answer.
        grader: Function that grades completions.
        max_new_tokens: Limit on the tokens of a completion, unless another is asked for.
    """

    hub: str | None
    config: str | None
    split: str
    convert: Convert
    grader: Grader
    max_new_tokens: int


def _mathematics(problem: str, answer: str, after: str | None = None) -> Convert:
    """Make the function that converts a problem of mathematics.

    Args:
        problem: Column with the problem.
        answer: Column with the answer.
        after: Mark in that column that precedes the final answer; None if the column holds nothing else.
    """

    def convert(row: Row, rng: random.Random) -> tuple[str, Any]:
        asked, expected = row[problem], row[answer]
        if not isinstance(asked, str) or not asked.strip():
            raise DataError(f"{problem}: got {asked!r}, expected text")
        if after is not None:
            _, mark, expected = str(expected).rpartition(after)
            if not mark:
                raise DataError(f"{answer}: there is no {after} before the final answer")
        check_answer(expected)
        return f"{asked}\n\n{BOXED}", str(expected).strip()

    return convert


def _gpqa(row: Row, rng: random.Random) -> tuple[str, Any]:
    right = row["Correct Answer"].strip()
    choices = [right, *(row[f"Incorrect Answer {number}"].strip() for number in (1, 2, 3))]
    order = rng.sample(range(4), 4)
    listed = "\n".join(f"{letter}) {choices[index]}" for letter, index in zip("ABCD", order, strict=True))
    return f"{row['Question'].strip()}\n\n{listed}\n\n{_LETTER}", "ABCD"[order.index(0)]


def _humaneval(row: Row, rng: random.Random) -> tuple[str, Any]:
    prompt = (
        f"Complete this Python function. End with the complete code:\n\n{_FENCE}\n\n```python\n{row['prompt']}```\n"
    )
    tests = {"unit": f"{row['test']}\n\ncheck({row['entry_point']})\n"}
    return prompt, {"prefix": row["prompt"], "tests": tests}


def _mbpp(row: Row, rng: random.Random) -> tuple[str, Any]:
    listed = "\n".join(row["test_list"])
    unit = "\n".join([*(row.get("test_imports") or ()), row.get("test_setup_code") or "", listed])
    text = row["prompt"] if "prompt" in row else row["text"]
    return f"{text}\n\nIt has to pass these tests:\n\n{listed}\n\nEnd with the complete code:\n\n{_FENCE}", {
        "unit": unit
    }


def _codeforces(row: Row, rng: random.Random) -> tuple[str, Any] | str:
    if row.get("generated_checker"):
        return "it has several right outputs, which need its checker"
    if row.get("interaction_format") or row.get("input_mode") == "file":
        return "it is interactive, or reads a file"
    if not row["official_tests"]:
        return "it has no tests"
    parts = [row["title"], row["description"], row["input_format"], row["output_format"], row.get("note")]
    shown = [f"Input:\n{each['input']}\nOutput:\n{each['output']}" for each in row.get("examples") or ()]
    prompt = "\n\n".join([*(part for part in parts if part), *shown, f"{_PROGRAM} code:\n\n{_FENCE}"])
    stdin = [{"input": each["input"], "output": each["output"]} for each in row["official_tests"]]
    limits = {"time_limit_s": row.get("time_limit"), "memory_limit_mb": int(row.get("memory_limit") or 0) or None}
    return prompt, {"stdin": stdin, **limits}


def _taco(row: Row, rng: random.Random) -> tuple[str, Any] | str:
    tests = row["input_output"]
    tests = json.loads(tests) if isinstance(tests, str) else tests
    if tests.get("fn_name"):
        return "it calls a function"
    stdin = [
        {"input": _joined(given), "output": _joined(expected)}
        for given, expected in zip(tests["inputs"], tests["outputs"], strict=True)
    ]
    if not stdin:
        return "it has no tests"
    return f"{row['question']}\n\n{_PROGRAM} code:\n\n{_FENCE}", {"stdin": stdin}


def _joined(lines: Any) -> str:
    return lines if isinstance(lines, str) else "\n".join(map(str, lines))


_PROBLEM_ANSWER = _mathematics("problem", "answer")
_QUESTION_ANSWER = _mathematics("question", "answer")

BENCHMARKS = {
    "math500": Benchmark("HuggingFaceH4/MATH-500", None, "test", _PROBLEM_ANSWER, grade_math, 4096),
    "aime24": Benchmark("HuggingFaceH4/aime_2024", None, "train", _PROBLEM_ANSWER, grade_math, 16_384),
    "aime25": Benchmark("math-ai/aime25", None, "test", _PROBLEM_ANSWER, grade_math, 16_384),
    "aime26": Benchmark("MathArena/aime_2026", None, "train", _PROBLEM_ANSWER, grade_math, 16_384),
    "minerva": Benchmark("math-ai/minervamath", None, "test", _QUESTION_ANSWER, grade_math, 4096),
    "gsm8k": Benchmark(
        "openai/gsm8k", "main", "test", _mathematics("question", "answer", after="####"), grade_math, 2048
    ),
    "gpqa": Benchmark("Idavidrein/gpqa", "gpqa_diamond", "train", _gpqa, grade_choice, 8192),
    "humaneval": Benchmark("openai/openai_humaneval", None, "test", _humaneval, grade_functions, 2048),
    "mbpp": Benchmark("google-research-datasets/mbpp", "sanitized", "test", _mbpp, grade_code, 2048),
    "codeforces": Benchmark("open-r1/codeforces", "verifiable", "test", _codeforces, grade_code, 16_384),
    "taco": Benchmark(None, None, "test", _taco, grade_code, 8192),
}
