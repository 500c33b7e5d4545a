import json
import re
from dataclasses import fields
from importlib.resources import files
from pathlib import Path

import pytest
import yaml
from published_sizes import count_parameters, published
from trl import DistillationConfig, GRPOConfig

from effopd.training.config import OPDConfig, RunArguments
from effopd.training.config_file import parse_config, recipes
from effopd.training.data import load_prompts
from effopd.training.rewards import resolve_rewards
from effopd.training.rl_config import RL_METHODS, RLConfig

FOLDER = Path(str(files("effopd") / "recipes"))
OPD = {field.name for kind in (RunArguments, OPDConfig, DistillationConfig) for field in fields(kind)}
RL = {field.name for kind in (RunArguments, RLConfig, GRPOConfig) for field in fields(kind)}


def test_recipes_ship_with_the_package() -> None:
    assert recipes() == [
        "code_qwen3_4b",
        *(
            "deepmath_qwen2.5_32b",
            "deepmath_qwen3_1.7b",
            "deepmath_qwen3_1.7b_ppo",
            "deepmath_qwen3_14b",
            "deepmath_qwen3_4b",
            "deepmath_qwen3_4b_dapo",
            "deepmath_qwen3_4b_grpo",
            "deepmath_qwen3_8b",
        ),
        "gsm8k_qwen2.5_1.5b",
        "world",
        "world_grpo",
    ]


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
        content = self.content(name)
        assert set(content) <= (RL if content.get("method") in RL_METHODS else OPD)

    def test_is_on_policy_at_the_papers_settings(self, name: str) -> None:
        content = self.content(name)
        if content.get("method") in RL_METHODS:
            return
        assert (content["temperature"], content["top_p"], content["beta"]) == (1.0, 1.0, 1.0)
        assert (content["lr_scheduler_type"], content["warmup_steps"]) == ("constant", 0)
        if name != "world":
            assert content["per_device_train_batch_size"] * content["gradient_accumulation_steps"] * 8 == 1024
            assert content["learning_rate"] == 1e-6
            assert content["max_completion_length"] < content["vllm_max_model_length"]

    def test_reinforcement_learning_has_the_papers_settings(self, name: str) -> None:
        content = self.content(name)
        if content.get("method") not in RL_METHODS:
            return
        assert name.endswith(content["method"])
        assert (content["temperature"], content["top_p"], content["max_grad_norm"]) == (1.0, 1.0, 1.0)
        assert (content["num_generations"], content["stop_without_improvement"]) == (16, 5)
        assert content["lr_scheduler_type"] == "constant_with_warmup"
        assert content["warmup_steps"] > 0
        gpus = 1 if name.startswith("world") else 8
        assert content["per_device_train_batch_size"] * content["gradient_accumulation_steps"] * gpus == 512
        if gpus > 1:
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
        if name.startswith("world"):
            assert load_prompts(content["dataset_name"], limit=2, require_answer=True).num_rows == 2
            return
        if name == "code_qwen3_4b":  # its rows are prepared in test_code_recipe.py
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


SHARDED = [name for name in recipes() if "FSDP2 shards" in (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")]


def test_the_large_students_are_sharded() -> None:
    assert SHARDED == ["deepmath_qwen2.5_32b", "deepmath_qwen3_14b", "deepmath_qwen3_8b"]


@pytest.mark.parametrize("name", SHARDED)
def test_the_memory_of_a_gpu_is_what_the_sizes_of_the_model_make(name: str) -> None:
    """The head's arithmetic, line by line, from the parameters counted on the meta device and from the settings."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    student = content["model_name_or_path"]
    config, parameters = published(student), count_parameters(student)
    gpus, memory = map(int, re.search(r"# Hardware: (\d+) GPUs of (\d+) GB", text).groups())  # type: ignore[union-attr]
    share, layers = content["vllm_gpu_memory_utilization"], config.num_hidden_layers
    length, rows = content["vllm_max_model_length"], content["per_device_train_batch_size"]
    sizes = {
        f"student, gradients, AdamW's state: 16 bytes x {parameters:,} parameters / {gpus}": 16 * parameters / gpus,
        f"teacher in bfloat16: 2 bytes x {parameters:,} parameters / {gpus}": 2 * parameters / gpus,
        f"vLLM: {share} of the GPU, of which": share * memory * 1e9,
        f"activations kept: {layers} layers x {rows} x {length:,} tokens x {config.hidden_size} x 2 bytes": (
            layers * rows * length * config.hidden_size * 2
        ),
        f"embeddings and heads, gathered: 12 bytes x {config.vocab_size:,} x {config.hidden_size}": (
            12 * config.vocab_size * config.hidden_size
        ),
    }
    said = []
    for words, size in sizes.items():
        [line] = [line for line in text.splitlines() if words in line]
        said.append(float(line.split()[-2]))
        assert said[-1] == pytest.approx(size / 1e9, abs=0.051), line
    [together] = re.findall(r"# +together +([\d.]+) GB", text)
    assert float(together) == pytest.approx(sum(said), abs=0.01)
    assert float(together) < 0.9 * memory  # the rest is for what is not counted
    weights = 2 * parameters / content.get("vllm_tensor_parallel_size", 1) / 1e9
    assert f"of which {weights:.1f} GB are weights" in text
    assert weights + 5 < share * memory  # leaves room for keys and values
    assert f"{8 * parameters / 1e9:.0f} GB for EffOPD's two copies" in text
    assert f"{12 * parameters / 1e9:.0f} GB more while a checkpoint is written" in text


@pytest.mark.parametrize(
    ("name", "per_gpu"),
    [
        ("deepmath_qwen3_1.7b", 28),
        ("deepmath_qwen3_1.7b_ppo", 28),
        ("deepmath_qwen3_4b", 64),
        ("deepmath_qwen3_4b_dapo", 64),
        ("deepmath_qwen3_4b_grpo", 64),
        ("code_qwen3_4b", 64),
    ],
)
def test_what_a_whole_student_takes(name: str, per_gpu: int) -> None:
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    assert f"optimizer state in float32 ({per_gpu} GB)" in text.replace("\n# ", " ")
    assert 16 * count_parameters(yaml.safe_load(text)["model_name_or_path"]) / 1e9 == pytest.approx(per_gpu, abs=0.6)


@pytest.mark.parametrize(
    ("name", "words", "bytes_per_parameter"),
    [
        ("deepmath_qwen3_4b_dapo", None, 0),
        ("deepmath_qwen3_4b_grpo", r"student's start for the KL term in float32 \((\d+) GB\)", 4),
        ("deepmath_qwen3_1.7b_ppo", r"those of the critic \((\d+) GB\)", 16),
    ],
)
def test_what_reinforcement_learning_holds_beside_the_student(
    name: str, words: str | None, bytes_per_parameter: int
) -> None:
    """The critic has the student's parameters, whose heads are tied, and a head of one row."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").replace("\n# ", " ")
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    parameters = count_parameters(content["model_name_or_path"])
    assert published(content["model_name_or_path"]).tie_word_embeddings
    [memory] = map(int, re.findall(r"8 GPUs of (\d+) GB", text))
    [vllm] = map(int, re.findall(r"vLLM \((\d+) GB\)", text))
    assert vllm == pytest.approx(content["vllm_gpu_memory_utilization"] * memory, abs=0.5)
    beside = bytes_per_parameter * parameters / 1e9
    if words:
        [said] = map(int, re.findall(words, text))
        assert said == pytest.approx(beside, abs=0.6)
    # DDP keeps a copy of the gradients of what is trained, of 4 of the 16 bytes, which the heads do not count.
    trained = parameters * (2 if bytes_per_parameter == 16 else 1)
    assert 16 * parameters / 1e9 + beside + 4 * trained / 1e9 + vllm < 0.9 * memory


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
