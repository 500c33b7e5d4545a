"""Tasks of lm-eval, with their prompts and their scoring."""

import json
import random
import sys
from pathlib import Path
from typing import Any, ClassVar

import datasets
import pytest

from effopd.errors import ConfigurationError, DataError, UnsupportedError
from effopd.evaluation import load_task


class FewTasks:
    """Stands for lm-eval's index, which takes seconds to read."""

    all_subtasks: ClassVar[list[str]] = ["gsm8k", "gsm8k_cot"]

    def __init__(self, include_defaults: bool) -> None:
        assert include_defaults


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestLMEval:
    """A task file of lm-eval with its gsm8k's prompts and scoring, and local data."""

    @pytest.fixture
    def task_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        lm_eval = pytest.importorskip("lm_eval")
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
        rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}\n#### {n + 1}"} for n in range(4)]
        data = write(tmp_path / "gsm8k.jsonl", rows)
        path = tmp_path / "local.yaml"
        gsm8k = Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml"
        path.write_text(
            f"include: {gsm8k}\ntask: gsm8k_local\ndataset_path: json\ndataset_name: null\nnum_fewshot: 1\n"
            f"dataset_kwargs:\n  data_files:\n    train: {data}\n    test: {data}\n"
        )
        return path

    def test_prompts_and_scoring_are_its_own(self, task_file: Path) -> None:
        state = random.getstate()
        task = load_task(f"lm-eval:{task_file}", limit=3)
        assert random.getstate() == state
        assert task.prompts == load_task(f"lm-eval:{task_file}", limit=3).prompts
        assert [prompt.rpartition("\n\n")[2] for prompt in task.prompts] == [
            f"Question: What is {n} + 1?\nAnswer:" for n in range(3)
        ]
        assert all(prompt.count("####") == 1 for prompt in task.prompts)
        verdicts = task.grader(
            ["It is one. #### 1", "#### 2\n\nQuestion: and? #### 7", "the answer is 3"], task.answers
        )
        assert [verdict.passed for verdict in verdicts] == [True, True, False]
        assert verdicts[2].reason == "wrong answer: exact_match,strict-match 0, exact_match,flexible-extract 1"

    @pytest.mark.parametrize(
        ("line", "message"),
        [("output_type: multiple_choice", "is scored by multiple_choice"), ("unsafe_code: true", "without a sandbox")],
    )
    def test_what_cannot_be_sampled_or_run(self, task_file: Path, line: str, message: str) -> None:
        task_file.write_text(f"{task_file.read_text()}{line}\n")
        with pytest.raises(UnsupportedError, match=message):
            load_task(f"lm-eval:{task_file}")

    def test_no_such_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("lm_eval")
        with pytest.raises(DataError, match=r"lm-eval:nothing.yaml: cannot be loaded"):
            load_task("lm-eval:nothing.yaml")
        monkeypatch.setattr("lm_eval.tasks.TaskManager", FewTasks)
        with pytest.raises(ConfigurationError, match="no task 'gsm8'; expected one such as gsm8k, gsm8k_cot"):
            load_task("lm-eval:gsm8")

    def test_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
        with pytest.raises(UnsupportedError, match=r"pip install 'effopd\[lm-eval\]'"):
            load_task("lm-eval:gsm8k")
