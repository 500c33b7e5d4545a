"""Recipes for models that do not fit here, run on tiny models of their architectures."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from published_sizes import published
from tiny_models import write_tiny_qwen2, write_tiny_qwen3
from transformers import AutoConfig

from effopd.training import train
from effopd.training.config_file import parse_config
from effopd.training.load import load_datasets
from effopd.training.rewards import resolve_rewards

SMALL = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_completion_length": 8,
    "max_steps": 2,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "use_vllm": "false",
    "bf16": "false",
    "use_cpu": "true",
    "report_to": "none",
    "generation_kwargs": "{}",
    "extrapolation": '{"num_prompts": 4}',
}


def parsed(recipe: str, **overrides: Any) -> Any:
    return parse_config(recipe, [word for key, value in overrides.items() for word in (f"--{key}", str(value))])


@pytest.mark.parametrize(
    ("recipe", "write"),
    [
        ("deepmath_qwen3_8b", partial(write_tiny_qwen3, tied=False)),
        ("deepmath_qwen3_14b", partial(write_tiny_qwen3, tied=False)),
        ("deepmath_qwen2.5_32b", write_tiny_qwen2),
    ],
)
def test_a_recipe_for_a_large_student(recipe: str, write: Any, tmp_path: Path) -> None:
    student, teacher = write(tmp_path / "student"), write(tmp_path / "teacher", seed=1, vocab_padding=20)
    tiny, real = (
        AutoConfig.from_pretrained(student),
        published(parsed(recipe, use_cpu="true", bf16="false")[0].model_name_or_path),
    )
    for field in ("model_type", "tie_word_embeddings"):
        assert getattr(tiny, field) == getattr(real, field)
    problems = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {i} plus {i}?", "final_answer": str(2 * i)} for i in range(24)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_name": problems, "dataset_split": "train", "evaluation_dataset_name": problems}
    data |= {"evaluation_split": "train", "num_evaluation_examples": 4, "eval_steps": 2}
    models = {"model_name_or_path": student, "teacher_model_name_or_path": teacher, "output_dir": tmp_path / "run"}
    # Rewards of random weights are all zero, so that the first validation says nothing.
    with pytest.warns(UserWarning, match="have the score 0, so they tell nothing"):
        rows = train(*parsed(recipe, **SMALL, **data, **models))
    assert len(rows) == 2
    assert all(row["loss"] != 0 and row["reverse_kl"] > 0 for row in rows)
    assert rows[-1]["rollouts"] >= 2 * 4 + 2 * 8
    assert rows[-1]["accuracy"] == 0


@pytest.mark.parametrize("recipe", ["deepmath_qwen3_4b_grpo", "deepmath_qwen3_4b_dapo", "deepmath_qwen3_1.7b_ppo"])
def test_a_recipe_for_reinforcement_learning(recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reward that random weights sometimes earn, which they never do by right answers."""
    (tmp_path / "rewards_of_first_ids.py").write_text(
        "def even(completion_ids, **kwargs): return [float(sum(ids[:1]) % 2) for ids in completion_ids]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    problems = tmp_path / "problems.jsonl"
    rows = [{"question": f"What is {i} plus {i}?", "final_answer": str(2 * i)} for i in range(24)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_name": problems, "dataset_split": "train", "evaluation_dataset_name": problems}
    data |= {"evaluation_split": "train", "num_evaluation_examples": 4, "eval_steps": 2, "num_generations": 4}
    names = {"model_name_or_path": write_tiny_qwen3(tmp_path / "student"), "output_dir": tmp_path / "run"}
    names["reward"] = "rewards_of_first_ids:even"
    small = SMALL | ({"overlong_buffer": 4} if recipe.endswith("dapo") else {})
    rows = train(*parsed(recipe, **small, **data, **names))
    assert len(rows) == 2
    assert rows[-1]["rollouts"] - rows[-1]["validation_rollouts"] >= 2 * 4
    assert rows[-1]["validation_rollouts"] >= 4
    assert rows[-1]["accuracy"] is not None


def test_the_recipe_for_code(tmp_path: Path) -> None:
    """Problems in a parquet file with the columns that verl has; the programs run in the sandbox."""
    asked = "Write Python code to solve the problem: print the sum of two numbers."
    paired = {"inputs": ["1 2\n", "3 4\n"], "outputs": ["3\n", "7\n"]}
    truths = [json.dumps(paired)] * 12 + [json.dumps(paired | {"fn_name": "add"})]
    problems = tmp_path / "code_train.parquet"
    pq.write_table(
        pa.Table.from_pylist(
            [
                {
                    "data_source": "taco",
                    "prompt": [{"role": "user", "content": f"{asked} ({number})"}],
                    "ability": "code",
                    "reward_model": {"style": "rule", "ground_truth": truth},
                    "extra_info": {"index": number, "split": "train"},
                }
                for number, truth in enumerate(truths)
            ]
        ),
        problems,
    )
    models = {
        "model_name_or_path": write_tiny_qwen3(tmp_path / "student"),
        "teacher_model_name_or_path": write_tiny_qwen3(tmp_path / "teacher", seed=1),
    }
    arguments, config = parsed("code_qwen3_4b", **SMALL, **models, dataset_name=problems, output_dir=tmp_path / "run")
    dataset, evaluation = load_datasets(arguments)
    assert evaluation is None
    assert len(dataset) == 12  # without the one that calls a function
    [reward] = resolve_rewards(arguments.reward)
    programs = ["```python\nprint(sum(map(int, input().split())))\n```", "```python\nprint(3)\n```"]
    assert reward(completions=programs, tests=dataset["tests"][:2]) == [1.0, 0.0]
    with pytest.warns(UserWarning, match="have the score 0, so they tell nothing"):
        rows = train(arguments, config)
    assert len(rows) == 2
    assert all(row["loss"] != 0 and row["reverse_kl"] > 0 for row in rows)
    assert rows[-1]["validation_rollouts"] >= 8
