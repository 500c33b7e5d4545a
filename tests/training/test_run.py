"""Whole runs: from a configuration to a run directory, and on after an interruption."""

import errno
import json
import shutil
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small_runs import world
from tiny import assert_same
from tiny_models import write_tiny_qwen3
from transformers import AutoModelForCausalLM, TrainerCallback

from effopd.checkpoints import find_checkpoints
from effopd.errors import CheckpointError, ConfigurationError, DataError, EffOPDError
from effopd.files import read_json
from effopd.run_directory import locked
from effopd.training import OPDTrainer, build_trainer, train
from effopd.training.complete_checkpoints import newest_checkpoint
from effopd.training.config_file import parse_config


def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("seconds")}


class Interrupt(TrainerCallback):
    """Ctrl-C at the start of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def test_libraries_do_not_warn_of_one_another(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        train(*world(tmp_path, max_steps=1))
    assert not [warning for warning in seen if "gradient_checkpointing" in str(warning.message)]


def test_what_is_no_run_is_not_written_over(tmp_path: Path) -> None:
    model = write_tiny_qwen3(tmp_path / "model")
    before = {path: path.read_bytes() for path in model.iterdir()}
    with pytest.raises(ConfigurationError, match=r"no run of effopd.*Choose another directory"):
        train(*world(model))
    assert before == {path: path.read_bytes() for path in model.iterdir()}
    (tmp_path / "other" / "checkpoint-500").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match=r"holds checkpoint-500 and no config\.yaml"):
        train(*world(tmp_path / "other"))
    for content, message in (("a: [", "is not YAML"), ("- 1", "holds no settings"), ("", "holds no settings")):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(DataError, match=message):
            train(*world(tmp_path))


def test_where_nothing_can_be_written_no_model_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effopd.training.run.build_trainer", None)
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        train(*world(tmp_path / "file"))


def test_a_full_disk_is_told_from_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, directory: str) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("effopd.training.run.OPDTrainer.save_model", fail)
    settings = world(tmp_path, max_steps=1, save_strategy="no")
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(OSError, match="No space left") as raised:
        train(*settings)
    assert raised.value.errno == errno.ENOSPC
    message = "a bug"
    with pytest.raises(RuntimeError, match="a bug"):
        train(*settings)


def test_training_that_diverges_says_so(tmp_path: Path) -> None:
    diverged = pytest.raises(EffOPDError, match=r"training has diverged\. Lower the learning rate")
    with pytest.warns(UserWarning, match="have the score 0"), diverged:
        train(*world(tmp_path, learning_rate=1e6, save_strategy="no"))


def test_metrics_hold_no_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rewards_of_none.py").write_text("def none(completions, **kwargs): return [None] * len(completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    one = {"acceleration": "none", "extrapolation": None, "evaluation_dataset_name": "world:evaluation"}
    every = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "save_strategy": "no"}
    [row] = train(*world(tmp_path / "one", one | {"num_evaluation_examples": 1}, **every))
    assert row["accuracy"] in (0, 1)
    assert row["accuracy_stderr"] is None
    assert "no accuracy" not in caplog.text
    none = one | {"num_evaluation_examples": 4, "reward": ["rewards_of_none:none"]}
    [row] = train(*world(tmp_path / "none", none, **every))
    assert row["accuracy"] is None
    assert "Step 1 has no accuracy: the reward gave None or NaN for all" in caplog.text


def test_the_end_of_sequence_pads_as_well_as_any_token(tmp_path: Path) -> None:
    student, teacher = write_tiny_qwen3(tmp_path / "student"), write_tiny_qwen3(tmp_path / "teacher", seed=1)
    names = {
        "model_name_or_path": str(student),
        "num_train_examples": 16,
        "acceleration": "none",
        "extrapolation": None,
    }
    rows = [
        train(
            *world(
                tmp_path / str(number),
                names | {"pad_token": pad},
                teacher_model_name_or_path=str(teacher),
                max_steps=2,
                save_strategy="no",
                per_device_train_batch_size=8,
            )
        )
        for number, pad in enumerate(("<|endoftext|>", "<|im_start|>"))
    ]
    assert [*map(without_seconds, rows[0])] == [*map(without_seconds, rows[1])]


def test_the_run_directory(tmp_path: Path) -> None:
    rows = train(*world(tmp_path, {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 20},
                        eval_strategy="steps", eval_steps=2, logging_steps=1))  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} >= {
        "config.yaml", "versions.json", "metrics.jsonl", "extrapolations.jsonl", "checkpoint-3", "checkpoint-6",
        "model.safetensors", "tokenizer.json", "run.json",
    }  # fmt: skip
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["accuracy"] is not None for row in rows] == [False, True] * 3
    assert [row["accepted_scale"] is not None for row in rows] == [True, True, False, True, False, False]
    assert all(row["grad_norm"] > 0 for row in rows)
    triggers = [json.loads(line) for line in (tmp_path / "extrapolations.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert last["validation_rollouts"] == sum(trigger["rollouts"] for trigger in triggers)
    assert last["rollouts"] == 6 * 16 + last["validation_rollouts"]
    assert last["validation_tokens"] == sum(trigger["generated_tokens"] for trigger in triggers)
    assert last["teacher_tokens"] == last["generated_tokens"] - last["validation_tokens"]
    assert last["seconds_total"] == pytest.approx(sum(last["seconds"].values()))
    for earlier, later in pairwise(rows):
        for key in ("rollouts", "generated_tokens", "teacher_tokens", "seconds_total"):
            assert earlier[key] < later[key]
        assert all(earlier["seconds"][phase] <= later["seconds"][phase] for phase in later["seconds"])
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert saved["acceleration"] == "paper"
    assert saved["estimator"] == "full_vocab"
    assert json.loads((tmp_path / "versions.json").read_text())["trl"].startswith("1.16.")
    assert json.loads((tmp_path / "run.json").read_text())["steps"] == 6


def test_a_step_counts_no_more_seconds_than_it_took(tmp_path: Path) -> None:
    counted: list[tuple[float, float]] = []

    class Watch(TrainerCallback):
        def __init__(self, metrics: Any) -> None:
            self.metrics = metrics

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            counted.append((time.perf_counter(), self.metrics.row["seconds_total"]))

    train(*world(tmp_path, max_steps=4, save_strategy="no"), callbacks=lambda trainer, metrics: [Watch(metrics)])
    for (start, before), (end, after) in pairwise(counted):
        assert 0 < after - before <= end - start


def test_an_interrupted_run_continues_to_the_same_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = train(*world(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        train(*world(tmp_path / "cut"), callbacks=lambda trainer, metrics: [Interrupt(5)])
    assert len((tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()) == 5
    assert not (tmp_path / "cut" / "run.json").exists()
    continued = train(*world(tmp_path / "cut"))
    assert "Continuing from" in caplog.text
    assert [*map(without_seconds, continued)] == [*map(without_seconds, whole)]
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(left[name].equal(right[name]) for name in left)


def test_a_checkpoint_cut_short_is_passed_over(tmp_path: Path) -> None:
    train(*world(tmp_path))
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-6"
    (tmp_path / "checkpoint-6" / "effopd-complete.json").unlink()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"
    trainer, _ = build_trainer(*world(tmp_path / "other"))
    with pytest.raises(CheckpointError, match="not a complete checkpoint"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-best" / "effopd-complete.json").touch()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_a_finished_run_is_used_again_and_other_settings_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = train(*world(tmp_path, max_steps=1))
    (tmp_path / "checkpoint-1" / "optimizer.pt").unlink()  # nobody needs it any more
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(*world(tmp_path, max_steps=1)) == rows
    assert "is finished" in caplog.text
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ConfigurationError, match=r"learning_rate 0\.0001 \(now 0\.001\)"):
        train(*world(tmp_path, max_steps=1, learning_rate=1e-3))


def test_two_commands_do_not_train_into_one_directory(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(DataError, match="another command is writing there"):
        train(*world(tmp_path, max_steps=1))
    assert len(train(*world(tmp_path, max_steps=1))) == 1


def test_target_accuracy_stops_the_run(tmp_path: Path) -> None:
    evaluation = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 20, "target_accuracy": 0.01}
    rows = train(*world(tmp_path, evaluation, eval_strategy="steps", eval_steps=2))
    assert len(rows) == 2
    assert rows[-1]["accuracy"] >= 0.01
    assert [checkpoint.step for checkpoint in find_checkpoints(tmp_path)] == [2]


def test_vanilla_has_no_validation(tmp_path: Path) -> None:
    rows = train(*world(tmp_path, {"acceleration": "none", "extrapolation": None}, max_steps=2))
    assert rows[-1]["rollouts"] == 32
    assert rows[-1]["seconds"]["validation"] == 0
    assert rows[-1]["accepted_scale"] is None
    assert not (tmp_path / "extrapolations.jsonl").exists()


@pytest.mark.parametrize("estimator", ["full_vocab", "sampled"])
def test_the_qwen3_recipe_on_a_tiny_qwen3(estimator: str, tmp_path: Path) -> None:
    """bf16 shards with an index, a chat template, the teacher's embeddings padded; prompts from a local file."""
    student = write_tiny_qwen3(tmp_path / "student")
    teacher = write_tiny_qwen3(tmp_path / "teacher", seed=1, vocab_padding=20)
    problems = [{"question": f"What is {i} plus {i}?", "final_answer": str(2 * i)} for i in range(24)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in problems))
    overrides = {
        "model_name_or_path": student,
        "teacher_model_name_or_path": teacher,
        "dataset_name": tmp_path / "problems.jsonl",
        "dataset_split": "train",
        "evaluation_dataset_name": tmp_path / "problems.jsonl",
        "evaluation_split": "train",
        "num_evaluation_examples": 4,
        "output_dir": tmp_path / "run",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_completion_length": 8,
        "max_steps": 2,
        "eval_steps": 2,
        "save_steps": 2,
        "learning_rate": 1e-3,
        "use_vllm": "false",
        "bf16": "false",
        "use_cpu": "true",
        "report_to": "none",
        "estimator": estimator,
        "generation_kwargs": "{}",
        "extrapolation": '{"num_prompts": 4}',
    }
    arguments, config = parse_config(
        "deepmath_qwen3_1.7b", [word for key, value in overrides.items() for word in (f"--{key}", str(value))]
    )
    with pytest.warns(UserWarning, match="have the score 0, so they tell nothing"):
        rows = train(arguments, config)
    assert len(rows) == 2
    assert all(row["loss"] != 0 and row["reverse_kl"] != 0 for row in rows)
    assert rows[-1]["rollouts"] >= 2 * 4 + 2 * 8
    assert rows[-1]["accuracy"] is not None
    trained = AutoModelForCausalLM.from_pretrained(tmp_path / "run")
    assert trained.config.vocab_size == AutoModelForCausalLM.from_pretrained(student).config.vocab_size


def test_tensorboard_is_written(tmp_path: Path) -> None:
    train(*world(tmp_path, max_steps=2, report_to="tensorboard", logging_steps=1, save_strategy="no"))
    assert [*tmp_path.rglob("events.out.tfevents.*")]
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "scheduler.pt"])
def test_a_checkpoint_that_lost_its_state_is_not_continued_from(name: str, tmp_path: Path) -> None:
    arguments, config = world(tmp_path, max_steps=4)
    with pytest.raises(KeyboardInterrupt):
        train(arguments, config, lambda trainer, metrics: [Interrupt(3)])
    (tmp_path / "checkpoint-3" / name).unlink()
    with pytest.raises(CheckpointError, match=f"lacks {name}.*go on to other weights"):
        train(*world(tmp_path, max_steps=4))


def test_the_best_model_is_the_final_one_also_after_an_interruption(tmp_path: Path) -> None:
    every = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "max_steps": 4, "learning_rate": 0.5}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "accuracy", "greater_is_better": False}
    target: dict[str, Any] = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 20}
    target |= {"acceleration": "none", "extrapolation": None}
    train(*world(tmp_path, target, **every, **best))
    whole = load_file(tmp_path / "model.safetensors")
    said = [(tmp_path / name).read_text() for name in ("run.json", "README.md")]
    kept = Path(read_json(tmp_path / "checkpoint-4" / "trainer_state.json")["best_model_checkpoint"]).name
    for name in ("run.json", "model.safetensors"):
        (tmp_path / name).unlink()
    train(*world(tmp_path, target, **every, **best))
    assert_same(load_file(tmp_path / "model.safetensors"), whole)
    assert_same(load_file(tmp_path / kept / "model.safetensors"), whole)
    assert [(tmp_path / name).read_text() for name in ("run.json", "README.md")] == said
    assert read_json(tmp_path / "run.json")["best_step"] == int(kept.rpartition("-")[2])


def test_metrics_have_the_learning_rate_of_their_own_step(tmp_path: Path) -> None:
    rows = train(*world(tmp_path, max_steps=4, lr_scheduler_type="linear", learning_rate=1e-3))
    assert [row["learning_rate"] for row in rows] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])


@pytest.mark.parametrize("steps", [6, 2])
def test_a_run_interrupted_after_its_last_step_takes_no_further_one(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether its last step is that of max_steps, or an evaluation has stopped it."""
    target = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 20, "target_accuracy": 0.01}
    every = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2}
    settings: tuple[Any, dict[str, Any]] = (None, {}) if steps == 6 else (target, every)
    whole = train(*world(tmp_path / "whole", settings[0], **settings[1]))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(OPDTrainer, "save_model", _interrupted_at_the_end(OPDTrainer.save_model))
        train(*world(tmp_path / "cut", settings[0], **settings[1]))
    assert not (tmp_path / "cut" / "run.json").exists()
    continued = train(*world(tmp_path / "cut", settings[0], **settings[1]))
    assert [*map(without_seconds, continued)] == [*map(without_seconds, whole)]
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["steps"] == steps
    names = [{path.name for path in (tmp_path / name).iterdir() if path.is_file()} for name in ("whole", "cut")]
    assert names[0] == names[1]
    left, right = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(left[name].equal(right[name]) for name in left)


def _interrupted_at_the_end(save_model: Any) -> Any:
    """Save checkpoints, and be interrupted at the final model."""

    def save(trainer: OPDTrainer, output_dir: str | None = None, **kwargs: Any) -> None:
        if output_dir == trainer.args.output_dir:
            raise KeyboardInterrupt
        save_model(trainer, output_dir, **kwargs)

    return save


def test_a_machine_without_memory_is_not_taken_for_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*args: Any, **kwargs: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(KeyboardInterrupt):
        train(*world(tmp_path), callbacks=lambda trainer, metrics: [Interrupt(4)])
    with monkeypatch.context() as patched:
        patched.setattr("effopd.extrapolation.callback.snapshot_of", fails)
        with pytest.raises(torch.OutOfMemoryError):
            train(*world(tmp_path))
    assert [row["step"] for row in train(*world(tmp_path))] == [1, 2, 3, 4, 5, 6]
