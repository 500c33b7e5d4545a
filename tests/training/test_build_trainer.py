"""From a configuration to a trainer: what is refused, warned of, loaded and wired up."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import world
from tiny_models import write_tiny_llama, write_tiny_qwen3

from effopd.errors import ConfigurationError, DataError
from effopd.training import RunArguments, build_trainer
from effopd.training.load import load_datasets
from effopd.training.rewards import code_reward


def test_no_steps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="max_steps=0 trains nothing"):
        build_trainer(*world(tmp_path / "out", max_steps=0))


@pytest.mark.parametrize(
    ("arguments", "config", "message"),
    [
        ({}, {"num_train_epochs": 0, "max_steps": -1}, "num_train_epochs=0 trains nothing"),
        ({}, {"eval_strategy": "steps", "eval_steps": 1}, "nothing to evaluate on. Set evaluation_dataset_name"),
        ({}, {"resume_from_checkpoint": "elsewhere"}, "resume_from_checkpoint='elsewhere' has no effect"),
        ({"num_train_examples": 31}, {"gradient_accumulation_steps": 2}, "31 rows are fewer than the 32 of one"),
        ({"system_prompt": "You calculate."}, {}, "no chat template"),
        ({}, {"generation_kwargs": ["x"]}, "These settings cannot be trained with: dictionary"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    arguments: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_trainer(*world(tmp_path / "out", arguments, **config))


@pytest.mark.parametrize("given", [None, {"top_k": 5}, {"stop_token_ids": [3]}])
def test_vllm_is_told_of_the_token_that_also_ends_a_completion(
    given: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loads a tokenizer of its own, and would write on."""

    class SeenError(Exception):
        pass

    def see(config: Any, loaded: Any, rewards: Any) -> None:
        raise SeenError(config.generation_kwargs, loaded.tokenizer.convert_tokens_to_ids("#"))

    monkeypatch.setattr("effopd.training.build._make_trainer", see)
    with pytest.raises(SeenError) as seen:
        build_trainer(*world(tmp_path, {"eos_token": "#"}, use_vllm=True, generation_kwargs=given))
    found, token = seen.value.args
    assert found == {"stop_token_ids": [token]} | (given or {})


@pytest.mark.parametrize("evaluation", ["world:evaluation", None])
def test_a_reward_that_cannot_work_is_found_before_training(
    evaluation: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "reward_without_words.py").write_text("def of(completions): return [0.0] * len(completions)\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = {"acceleration": "none", "extrapolation": None, "reward": ["reward_without_words:of"]}
    settings = world(tmp_path / "out", arguments | {"evaluation_dataset_name": evaluation})
    if evaluation is None:  # it is never called
        build_trainer(*settings)
        return
    with pytest.raises(
        ConfigurationError,
        match=r"called with prompts, .*argument 'prompts'\. Let it take \*\*kwargs",
    ):
        build_trainer(*settings)


def test_a_plateau_of_the_accuracy_lowers_the_learning_rate(tmp_path: Path) -> None:
    evaluated = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 8}
    config = {"eval_strategy": "steps", "eval_steps": 1, "lr_scheduler_type": "reduce_lr_on_plateau"}
    trainer = build_trainer(*world(tmp_path / "out", evaluated, **config))[0]
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("accuracy", True)


def test_a_run_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs a teacher"):
        build_trainer(*world(tmp_path, teacher_model_name_or_path=None))
    with pytest.raises(ConfigurationError, match="world:base"):
        build_trainer(*world(tmp_path, teacher_model_name_or_path="world:professor"))


def test_a_student_that_is_its_own_teacher_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_trainer(*world(tmp_path / "out"))
    assert "the same model" not in caplog.text
    student = write_tiny_qwen3(tmp_path / "student")
    (tmp_path / "link").symlink_to(student)
    names = {"model_name_or_path": str(student), "num_train_examples": 16}
    build_trainer(*world(tmp_path / "out", names, teacher_model_name_or_path=str(tmp_path / "link")))
    assert caplog.text.count("the same model") == 1


def test_what_model_init_kwargs_say_of_files_goes_before_other_settings(tmp_path: Path) -> None:
    config = {f"{of}model_init_kwargs": {"trust_remote_code": False} for of in ("", "teacher_")}
    trainer, _ = build_trainer(*world(tmp_path, **config))
    assert (trainer.args.model_init_kwargs, trainer.args.teacher_model_init_kwargs) == tuple(config.values())
    config["teacher_model_init_kwargs"]["revision"] = "main"
    with pytest.raises(ConfigurationError, match="revision: got 'main' for the directory"):
        build_trainer(*world(tmp_path, **config, teacher_model_revision="other"))


def test_a_logger_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.integrations.integration_utils.is_trackio_available", lambda: False)
    with pytest.raises(ConfigurationError, match=r"cannot be trained with: .*rackio to be installed"):
        build_trainer(*world(tmp_path, report_to="trackio"))


def test_problems_that_nobody_evaluates_on_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build_trainer(*world(tmp_path, {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 8}))
    assert "No accuracy will be measured, because eval_strategy is" in caplog.text


def test_prompts_too_long_for_the_student_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"prompt": "7+" * n + "1=", "answer": "1"}) + "\n" for n in range(10, 26)))
    build_trainer(*world(tmp_path / "out", {"dataset_name": str(path)}))
    assert "longest" not in caplog.text
    build_trainer(*world(tmp_path / "out", {"dataset_name": str(path)}, max_completion_length=13))
    assert "The longest prompt has 52 tokens; with max_completion_length=13 that is more than the 64" in caplog.text
    student = write_tiny_qwen3(tmp_path / "student")
    names = {"model_name_or_path": str(student), "dataset_name": str(path), "system_prompt": "You calculate. " * 50}
    caplog.clear()
    build_trainer(*world(tmp_path / "out", names, teacher_model_name_or_path=str(student)))
    assert "more than the 512 tokens" in caplog.text


def test_vocabularies_that_differ_are_named(tmp_path: Path) -> None:
    llama = write_tiny_llama(tmp_path / "llama")
    arguments = RunArguments(model_name_or_path=str(llama), dataset_name="world:train", acceleration="none")
    _, config = world(tmp_path / "run")
    with pytest.raises(ConfigurationError, match=r"<\|im_end\|>|only in"):
        build_trainer(arguments, config)


def test_code_is_rewarded_by_tests_in_place_of_answers(tmp_path: Path) -> None:
    problem = {"prompt": "7*3+4-9*2+5=", "tests": {"unit": "assert square(3) == 9"}}
    path = tmp_path / "problems.jsonl"
    path.write_text(json.dumps(problem) + "\n")
    arguments, _ = world(tmp_path, {"dataset_name": str(path), "reward": ["code"], "num_train_examples": None})
    dataset, _ = load_datasets(arguments)
    assert code_reward(["def square(x): return x * x", "def square(x): return 9 * x"], dataset["tests"][:] * 2) == [
        1,
        0,
    ]
    path.write_text(json.dumps({"prompt": problem["prompt"]}) + "\n")
    with pytest.raises(DataError, match="a column 'tests'; there are prompt"):
        load_datasets(arguments)


def test_extrapolation_is_validated_on_prompts_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "hard.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"{digit}*3+4-9*2+5=", "answer": "1"}) + "\n" for digit in range(5)))
    settings = {"validation_dataset_name": str(path), "extrapolation": {"num_prompts": 3}}
    _, metrics = build_trainer(*world(tmp_path / "run", settings))
    assert metrics.effopd is not None
    drawn = [row["prompt"] for row in metrics.effopd._draw(step=0)]
    assert len(drawn) == 3 and all(prompt.endswith("*3+4-9*2+5=") for prompt in drawn)
    with pytest.raises(ConfigurationError, match="validation_dataset_name has no effect"):
        world(tmp_path / "run", {"acceleration": "none", "extrapolation": None, "validation_dataset_name": str(path)})


def test_callbacks_come_in_their_order(tmp_path: Path) -> None:
    arguments = {"monitor_every": 2, "evaluation_dataset_name": "world:evaluation", "target_accuracy": 0.5}
    trainer, metrics = build_trainer(*world(tmp_path, arguments | {"num_evaluation_examples": 4}))
    ours = [each for each in trainer.callback_handler.callbacks if type(each).__module__.startswith("effopd")]
    assert [type(each).__name__ for each in ours] == [
        "EffOPDCallback",
        "UpdateMonitorCallback",
        "MetricsCallback",
        "StopAtAccuracy",
    ]
    assert metrics is ours[2]
    assert metrics.effopd is ours[0]
    vanilla = {"acceleration": "none", "extrapolation": None}
    trainer, metrics = build_trainer(*world(tmp_path, vanilla))
    ours = [each for each in trainer.callback_handler.callbacks if type(each).__module__.startswith("effopd")]
    assert ours == [metrics]
    assert metrics.effopd is None
