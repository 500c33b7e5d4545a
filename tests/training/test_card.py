"""The model card of a run: what it tells, when it is written, and what it leaves alone."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, ModelCard
from safetensors.torch import load_file
from small_rl_runs import PLAIN
from small_runs import world
from test_run import Interrupt
from transformers import Trainer

from effopd.training import train
from effopd.training.card import make_card

ROW: dict[str, Any] = {
    **{"step": 3, "accuracy": 0.5, "accuracy_stderr": 0.0123, "rollouts": 12345, "validation_rollouts": 678},
    **{"generated_tokens": 99999, "validation_tokens": 8888, "teacher_tokens": 77777, "reference_tokens": 0},
    **{"seconds": {"generation": 6.25, "teacher": 0.0}, "seconds_total": 6.25},
}


def written(directory: Path, config: dict[str, Any], triggers: list[dict[str, Any]]) -> str:
    """The card of a run directory with these settings and triggers."""
    directory.mkdir(parents=True)
    base = {"method": "opd", "model_name_or_path": "world:base", "dataset_name": "world:train", "extrapolation": None}
    base |= {"acceleration": "paper", "evaluation_dataset_name": "world:evaluation"}
    (directory / "config.yaml").write_text(json.dumps(base | config))
    (directory / "versions.json").write_text('{"trl": "1.2.3"}')
    (directory / "extrapolations.jsonl").write_text("".join(json.dumps(each) + "\n" for each in triggers))
    return str(make_card(directory, [ROW]))


def test_a_run_writes_its_card(tmp_path: Path) -> None:
    rows = train(*world(tmp_path / "my-run", max_steps=2, learning_rate=1e-3))
    card = ModelCard.load(tmp_path / "my-run" / "README.md")
    assert card.data.tags == ["effopd", "on-policy-distillation", "trl", "distillation"]  # the last two are TRL's
    assert card.data.base_model is None  # no model of the hub
    last = rows[-1]
    jumps = [row for row in rows if row["accepted_scale"]]
    for words in (
        "# my-run",
        "`world:base`, distilled from `world:teacher`",
        "for 2 steps",
        "| `learning_rate` | `0.001` |",
        "| `num_prompts` (EffOPD) | `8` |",
        f"| completions sampled, in all | {last['rollouts']:,} |",
        f"to validate candidates of EffOPD | {last['validation_rollouts']:,} |",
        f"| tokens that the teacher scored | {last['teacher_tokens']:,} |",
        f"| seconds | {last['seconds_total']:,.1f} |",
        f"after 2 steps, and jumped {len(jumps)} times",
        "arXiv 2605.11739",
        "trl 1.16.",
    ):
        assert words in card.text, words
    assert "transformers.Trainer" not in card.text
    assert str(tmp_path) not in str(card)


def test_the_card_of_a_continued_run_is_that_of_the_whole_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(*world(tmp_path), callbacks=lambda trainer, metrics: [Interrupt(5)])
    at_the_checkpoint = (tmp_path / "README.md").read_text()
    assert "for 2 steps" in at_the_checkpoint  # the row of step 3 is written once its checkpoint is complete
    train(*world(tmp_path))
    assert "for 6 steps" in (tmp_path / "README.md").read_text()


def test_somebody_elses_readme_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_text("# Mine\n")
    train(*world(tmp_path, max_steps=2, save_steps=1))
    assert (tmp_path / "README.md").read_text() == "# Mine\n"
    assert "README.md is not written by effopd" in caplog.text
    (tmp_path / "folder" / "README.md").mkdir(parents=True)
    train(*world(tmp_path / "folder", max_steps=1))
    assert (tmp_path / "folder" / "README.md").is_dir()


def test_what_is_pushed_has_the_card_and_the_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pushed: list[str] = []

    def upload_folder(*_: Any, **settings: Any) -> None:
        pushed.append((Path(settings["folder_path"]) / "README.md").read_text())

    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, **_: setattr(self, "hub_model_id", "somebody/run"))
    train(*world(tmp_path, max_steps=1, save_strategy="no", push_to_hub=True, hub_token="hf_secret"))
    assert pushed
    assert all("| completions sampled, in all |" in text and "- effopd" in text for text in pushed)
    assert "hf_secret" not in pushed[-1] + (tmp_path / "config.yaml").read_text()


def test_models_of_the_hub_are_linked_and_those_of_the_disk_are_not_located(tmp_path: Path) -> None:
    (tmp_path / "secret" / "student").mkdir(parents=True)
    names = {"model_name_or_path": "owner/base", "teacher_model_name_or_path": str(tmp_path / "secret" / "student")}
    text = written(tmp_path / "one", names | {"dataset_name": "owner/problems"}, [])
    card = ModelCard(text)
    assert (card.data.base_model, card.data.datasets) == ("owner/base", ["owner/problems"])
    assert "[owner/base](https://huggingface.co/owner/base), distilled from `student`" in text
    assert "[owner/problems](https://huggingface.co/datasets/owner/problems)" in text
    assert "secret" not in text
    gone = {"model_name_or_path": str(tmp_path / "gone" / "base"), "method": "grpo", "acceleration": "none"}
    text = written(tmp_path / "two", gone, [])
    assert "`base`, trained on rewards" in text
    assert "- reinforcement-learning" in text
    assert "jumped" not in text


def test_the_costs_and_jumps_are_those_of_the_records(tmp_path: Path) -> None:
    triggers = [{"step": step, "accepted_scale": scale} for step, scale in ((1, 4.0), (2, 0.0), (4, -0.5))]
    text = written(tmp_path / "few", {}, triggers)
    for words in ("12,345", "678", "99,999", "8,888", "77,777", "0.500 ± 0.012", "generation | 6.2", "trl 1.2.3"):
        assert words in text, words
    assert "after 3 steps, and jumped 1 times. 1 times it took a part of the update back." in text
    assert "| 1 | 4 |" in text and "-0.5" not in text
    assert "reference model" not in text
    many = written(tmp_path / "many", {}, [{"step": step, "accepted_scale": 2.0} for step in range(1, 31)])
    assert "The first 20 jumps" in many
    assert "| 20 | 2 |" in many
    assert "| 21 | 2 |" not in many


def test_the_best_model_is_told_by_its_own_accuracy(tmp_path: Path) -> None:
    evaluated = {"evaluation_dataset_name": "world:evaluation", "num_evaluation_examples": 60} | PLAIN
    best = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "load_best_model_at_end": True}
    rows = train(*world(tmp_path, evaluated, max_steps=8, learning_rate=3e-3, **best))
    accuracies = {row["step"]: row["accuracy"] for row in rows if row["accuracy"] is not None}
    step = max(accuracies, key=accuracies.__getitem__)
    assert step < 8  # training goes astray at this rate
    assert json.loads((tmp_path / "run.json").read_text())["best_step"] == step
    kept, of_step = (load_file(tmp_path / name / "model.safetensors") for name in ("", f"checkpoint-{step}"))
    assert all(kept[name].equal(of_step[name]) for name in kept)
    text = (tmp_path / "README.md").read_text()
    assert f"The model is that of step {step}, the best by its accuracy. After step {step} its accuracy" in text
    assert f"was {accuracies[step]:.3f} ±" in text
