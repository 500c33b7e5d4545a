import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from trl import DistillationConfig

from effopd.training.config import OPDConfig, RunArguments
from effopd.training.config_file import parse_config, recipes
from effopd.training.data import load_prompts
from effopd.training.rewards import resolve_rewards

FOLDER = Path(str(files("effopd") / "recipes"))
OURS = {field.name for field in (*fields(RunArguments), *fields(OPDConfig))}
TRL = {field.name for field in fields(DistillationConfig)}


def test_recipes_ship_with_the_package() -> None:
    assert recipes() == ["deepmath_qwen3_1.7b", "deepmath_qwen3_4b", "gsm8k_qwen2.5_1.5b", "world"]


@pytest.mark.parametrize("name", recipes())
class TestEachRecipe:
    def content(self, name: str) -> dict[str, object]:
        return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))

    def test_has_a_head_with_its_command(self, name: str) -> None:
        text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
        head = text.partition("\n\n")[0]
        assert "# Hardware: " in head
        assert f"effopd train {name}\n" in f"{head}\n"

    def test_has_only_real_fields(self, name: str) -> None:
        assert set(self.content(name)) <= OURS | TRL

    def test_is_on_policy_at_the_papers_settings(self, name: str) -> None:
        content = self.content(name)
        assert (content["temperature"], content["top_p"], content["beta"]) == (1.0, 1.0, 1.0)
        assert (content["lr_scheduler_type"], content["warmup_steps"]) == ("constant", 0)
        if name != "world":
            assert content["per_device_train_batch_size"] * content["gradient_accumulation_steps"] * 8 == 1024
            assert content["learning_rate"] == 1e-6
            assert content["max_completion_length"] < content["vllm_max_model_length"]

    def test_is_parsed_with_every_value_kept(self, name: str, tmp_path: Path) -> None:
        # These tests have no GPU: bf16 asks for one.
        arguments, config = parse_config(name, ["--use_cpu", "true", "--bf16", "false", "--output_dir", str(tmp_path)])
        for key, value in self.content(name).items():
            if key in ("use_cpu", "bf16", "output_dir", "report_to"):
                continue
            parsed = getattr(arguments, key) if hasattr(arguments, key) else getattr(config, key)
            assert parsed == ([value] if key == "reward" else value)
        assert resolve_rewards(arguments.reward)

    def test_prompts_can_be_prepared(self, name: str, tmp_path: Path) -> None:
        content = self.content(name)
        if name == "world":
            assert load_prompts(content["dataset_name"], limit=2, require_answer=True).num_rows == 2
            return
        answer = "6*7=42\n#### 42" if "answer_after" in content else "42"
        row = {content["prompt_column"]: "6*7?", content["answer_column"]: answer}
        path = tmp_path / "data.jsonl"
        path.write_text(json.dumps(row))
        options = ("prompt_column", "answer_column", "answer_after", "prompt_template", "system_prompt")
        kwargs = {key: content[key] for key in options if key in content}
        [loaded] = load_prompts(path, require_answer=True, **kwargs)
        assert loaded["answer"] == "42"
        assert loaded["prompt"][-1]["content"].startswith("6*7?")
        assert "final answer within \\boxed{}." in str(loaded["prompt"][-1]["content"] + loaded["prompt"][0]["content"])


def test_the_world_recipe_says_what_the_benchmark_measured() -> None:
    """Steps of vanilla OPD at its rate, and enough of them to get there."""
    text = (FOLDER / "world.yaml").read_text(encoding="utf-8")
    settings = yaml.safe_load(text)
    rate, prompts = settings["learning_rate"], settings["per_device_train_batch_size"]
    speedup = Path(__file__).parents[2] / "benchmarks" / "results" / "speedup.json"
    [cell] = [
        cell
        for cell in json.loads(speedup.read_text())["cells"]
        if (cell["method"], cell["learning_rate"], cell["prompts_per_step"]) == ("vanilla", rate, prompts)
        and cell["estimator"] == settings["estimator"]
    ]
    said = re.search(r"Vanilla OPD needs about (\d+) steps at this rate", text)
    assert said is not None
    assert int(said[1]) == cell["steps"]["at_least"] == cell["steps"]["at_most"]
    assert settings["max_steps"] > 1.5 * cell["steps"]["high"]


def test_a_folder_of_the_same_name_does_not_hide_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "world").mkdir()  # as `effopd world runs --out world` leaves one
    monkeypatch.chdir(tmp_path)
    assert parse_config("world")[0].model_name_or_path == "world:base"
