"""`effopd evaluate` as a person meets it: its directory, interruptions, and what is refused."""

import json
import shutil
import sys
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from training.tiny_models import make_tokenizer, write_tiny_llama, write_tiny_qwen3
from transformers import AutoModelForCausalLM, AutoTokenizer

from effopd import cli, run_directory, world
from effopd.curves import draw_curves
from effopd.errors import CheckpointError, UnsupportedError
from effopd.evaluation import evaluate, load_task
from effopd.evaluation import evaluate_model as evaluate_model_module
from effopd.evaluation.vllm_backend import VLLMBackend
from effopd.files import files_digest

WORLD = ("world:base", "--task", "world", "--limit", "30", "--samples", "2", "--batch-size", "16")


def run(*arguments: object) -> Any:
    try:
        return cli.main(["evaluate", *map(str, arguments)])
    except SystemExit as exit_:
        return exit_.code


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(*WORLD, "--teacher", "world:teacher", "--out", out) == 0
    return out


def test_records_and_summary(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "settings.json",
        "problems.jsonl",
        "examples.jsonl",
        "summary.json",
    }
    model, teacher = (AutoModelForCausalLM.from_pretrained(each()) for each in (world.base_dir, world.teacher_dir))
    tokenizer = AutoTokenizer.from_pretrained(world.base_dir())
    task = load_task("world", limit=30)
    direct = evaluate(model, tokenizer, task, num_samples=2, batch_size=16, teacher=teacher)
    rows = read(finished / "examples.jsonl")
    assert sorted(rows, key=lambda row: (row["prompt"], row["sample"])) == [asdict(each) for each in direct.records]
    summary = json.loads((finished / "summary.json").read_text())
    assert (summary["num_problems"], summary["num_samples"], summary["num_resumed"]) == (30, 2, 0)
    assert (summary["mean"], summary["standard_error"]) == (direct.mean, direct.standard_error)
    assert summary["interval"] == list(direct.interval)
    assert [each["value"] for each in summary["pass_at"].values()] == [direct.mean, direct.pass_at(2)]
    assert summary["kl_per_token"] == direct.kl_per_token
    assert summary["seconds"] > 0
    assert {"python", "torch", "transformers", "effopd"} <= summary["versions"].keys()
    assert summary["command"]


def test_two_evaluations_do_not_write_in_one_directory(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    load_model = evaluate_model_module.load_model
    codes = []

    def load_once(*arguments: Any, **options: Any) -> Any:
        if not codes:
            codes.append(run(*WORLD, "--out", out))
        return load_model(*arguments, **options)

    out = tmp_path / "out"
    monkeypatch.setattr(evaluate_model_module, "load_model", load_once)
    assert run(*WORLD, "--teacher", "world:teacher", "--out", out) == 0
    assert codes == [1]
    assert "another command is writing there" in capsys.readouterr().err
    assert (out / "examples.jsonl").read_bytes() == (finished / "examples.jsonl").read_bytes()


class InterruptedBySignalError(Exception):
    """Instead of a person's Ctrl-C."""


@pytest.mark.parametrize(("lines", "cut"), [(16, 0), (20, 0), (37, 5), (0, 0), (1, 40)])
def test_an_interrupted_evaluation_continues_to_the_same_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: int, cut: int
) -> None:
    out = tmp_path / "out"
    written = 0
    append = run_directory.append_json_line

    def interrupted(path: Path, row: Any) -> None:
        nonlocal written
        if written == lines:
            raise InterruptedBySignalError
        append(path, row)
        written += 1

    with monkeypatch.context() as patch:
        patch.setattr(run_directory, "append_json_line", interrupted)
        with pytest.raises(InterruptedBySignalError):
            run(*WORLD, "--teacher", "world:teacher", "--out", out)
    examples = out / "examples.jsonl"
    if cut:
        examples.write_bytes(examples.read_bytes()[:-cut])
    assert not (out / "summary.json").exists()
    assert run(*WORLD, "--teacher", "world:teacher", "--out", out) == 0
    assert examples.read_bytes() == (finished / "examples.jsonl").read_bytes()
    summary, whole = (json.loads((each / "summary.json").read_text()) for each in (out, finished))
    assert summary["num_resumed"] == lines // 16 * 16 - (16 if cut and lines % 16 == 0 else 0)
    for each in (summary, whole):
        del each["seconds"], each["num_resumed"]
    assert summary == whole


def test_a_finished_evaluation_is_not_done_again(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shutil.copytree(finished, tmp_path / "out")
    (out / "summary.json").unlink()
    monkeypatch.setattr("effopd.evaluation.evaluate_model.load_model", None)
    assert run(*WORLD, "--teacher", "world:teacher", "--out", out) == 0
    assert json.loads((out / "summary.json").read_text())["num_resumed"] == 60
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("avg@2", "pass@2", "KL per token", "30 problems", "["))


def test_a_directory_that_an_earlier_version_has_left_is_continued(finished: Path, tmp_path: Path) -> None:
    """Files as version 0.1.0 wrote them before it was interrupted, in the second batch."""
    settings = {
        "model": str(world.base_dir()),
        "model_files": files_digest(world.base_dir().glob("*.safetensors")),
        "task": "world",
        "task_digest": "d24f2f1fbefdba2d",
        "num_samples": 2,
        "backend": "hf",
        "seed": 0,
        "batch_size": 16,
        "temperature": 1.0,
        "max_new_tokens": 12,
        "teacher": str(world.teacher_dir()),
        "teacher_files": files_digest(world.teacher_dir().glob("*.safetensors")),
        "chat": False,
        "dtype": "auto",
    }
    out = tmp_path / "out"
    out.mkdir()
    (out / "settings.json").write_text(json.dumps(settings, indent=2) + "\n")
    names = ("prompt", "sample", "completion", "passed", "reason", "num_tokens", "truncated", "kl")
    lines = [json.dumps({name: row[name] for name in names}) for row in read(finished / "examples.jsonl")]
    (out / "examples.jsonl").write_text("\n".join(lines[:20]) + '\n{"prompt": 3, "sam')
    assert run(*WORLD, "--teacher", "world:teacher", "--out", out) == 0
    assert json.loads((out / "summary.json").read_text())["num_resumed"] == 16
    assert (out / "examples.jsonl").read_bytes() == (finished / "examples.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("--seed", "1"), "seed 0 (now 1)"),
        (("--samples", "4"), "num_samples 2 (now 4)"),
        (("--limit", "20"), "task_digest"),
        (("--temperature", "0.5"), "temperature 1.0 (now 0.5)"),
        (("--max-new-tokens", "5"), "max_new_tokens 12 (now 5)"),
        (("--teacher", "world:base"), "teacher"),
    ],
)
def test_other_settings_are_refused(
    finished: Path, arguments: tuple[str, ...], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "examples.jsonl").read_bytes()
    assert run(*WORLD, "--teacher", "world:teacher", "--out", finished, *arguments) == 1
    error = capsys.readouterr().err
    assert "other settings" in error
    assert name in error
    assert (finished / "examples.jsonl").read_bytes() == before


def test_another_device_is_refused(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices sample differently."""
    monkeypatch.setattr(evaluate_model_module, "choose_device", lambda name: torch.device("meta"))
    with pytest.raises(CheckpointError, match=r"other settings: device '\w+' \(now 'meta'\)"):
        evaluate_model_module.evaluate_model(
            "world:base", "world", finished, num_samples=2, limit=30, batch_size=16, teacher="world:teacher"
        )


def test_the_step_is_that_of_the_time_of_evaluation(tmp_path: Path) -> None:
    model = shutil.copytree(world.base_dir(), tmp_path / "model")
    (model / "run.json").write_text('{"steps": 100}')
    arguments = (model, "--task", "world", "--limit", "2", "--out", tmp_path / "out")
    assert run(*arguments) == 0
    (model / "run.json").write_text('{"steps": 200}')
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["step"] == 100
    draw_curves({"OPD": tmp_path / "out"}, tmp_path / "curves")
    assert "| 100 |" in (tmp_path / "curves.md").read_text()


def test_decimals_of_a_table_stay_in_the_problems(tmp_path: Path) -> None:
    rows = [{"prompt": "1 / 8?", "answer": Decimal("0.125")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    options = ("--task", tmp_path / "rows.parquet", "--max-new-tokens", "2", "--out", tmp_path / "out")
    assert run(write_tiny_qwen3(tmp_path / "model"), *options) == 0
    assert read(tmp_path / "out" / "problems.jsonl") == [{"prompt": "1 / 8?", "answer": "0.125"}]


def test_another_model_in_the_same_place_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = shutil.copytree(world.base_dir(), tmp_path / "model")
    arguments = (model, "--task", "world", "--limit", "2", "--out", tmp_path / "out")
    assert run(*arguments) == 0
    shutil.copy(world.teacher_dir() / "model.safetensors", model)
    assert run(*arguments) == 1
    assert "model_files" in capsys.readouterr().err


def test_a_start_that_failed_leaves_nothing_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    assert run(*WORLD, "--backend", "vllm", "--out", tmp_path) == 1
    assert run(*WORLD, "--out", tmp_path) == 0


@pytest.mark.parametrize("row", [{"tests": {"unit": "assert f() == 1"}}, None])
def test_without_a_sandbox_no_programs_are_sampled(
    row: dict[str, Any] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, model = tmp_path / "rows.jsonl", write_tiny_qwen3(tmp_path / "model")
    row = row or {"prompt": "def f():\n", "test": "def check(f):\n    assert f() == 1", "entry_point": "f"}
    path.write_text(json.dumps({"prompt": "Write f.", **row}))
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("effopd.evaluation.evaluate_model.load_model", None)
    options = ("--task", path) if "tests" in row else ("--task", "humaneval", "--data", path)
    assert run(model, *options, "--out", tmp_path / "out") == 1
    assert "bubblewrap (bwrap) is not installed" in capsys.readouterr().err
    task = load_task(str(path)) if "tests" in row else load_task("humaneval", data=path)
    with pytest.raises(UnsupportedError, match="bubblewrap"):
        evaluate(None, make_tokenizer(), task)  # type: ignore[arg-type]


def test_an_output_that_cannot_be_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr("effopd.evaluation.evaluate_model.load_model", None)
    assert run(*WORLD, "--out", tmp_path / "file" / "out") == 1
    assert "Give another path" in capsys.readouterr().err
    assert run(*WORLD, "--out", tmp_path / "file") == 1
    assert "file is a file. Choose another" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert run(*WORLD, "--out", tmp_path) == 1
    assert "holds no evaluation" in capsys.readouterr().err


def test_chat_and_a_file_with_a_tiny_model(tmp_path: Path) -> None:
    model, teacher = write_tiny_qwen3(tmp_path / "model"), write_tiny_llama(tmp_path / "teacher", vocab_padding=3)
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"prompt": "1 + 1?", "answer": "2"}\n{"prompt": "1 + 2?", "answer": "3"}\n')
    out = tmp_path / "out"
    options = ("--task", problems, "--chat", "--max-new-tokens", "6", "--teacher", teacher, "--out", out)
    assert run(model, *options) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["chat"]
    assert summary["num_tokens"] <= 6
    assert summary["kl_per_token"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("world:nothing", "--task", "world"), "world:nothing"),
        (("world:base", "--task", "nothing"), "got 'nothing', expected world"),
        (("world:base", "--task", "world", "--samples", "0"), "num_samples: got 0"),
        (("world:base", "--task", "world", "--limit", "-1"), "limit: got -1"),
        (("world:base", "--task", "world", "--dtype", "int3"), "dtype: got 'int3'"),
        (("world:base", "--task", "world", "--device", "abacus"), "device: got 'abacus'"),
        (("world:base", "--task", "world", "--device", "cuda"), "torch sees no such device"),
        (("world:base", "--task", "world", "--max-new-tokens", "0"), "max_new_tokens: got 0"),
        (("world:base", "--task", "world", "--data", "x.jsonl"), "--data takes the rows of a benchmark"),
        (("world:base", "--task", "world", "--chat"), "no chat template"),
        (("world:base", "--task", "world", "--backend", "vllm", "--teacher", "world:teacher"), "--backend hf"),
        (("world:base", "--task", "world", "--backend", "vllm"), "pip install 'effopd[vllm]'"),
    ],
)
def test_wrong_arguments(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert run(*arguments, "--out", tmp_path / "out") == 1
    assert message in capsys.readouterr().err


def test_a_teacher_with_another_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = write_tiny_llama(tmp_path / "teacher")
    assert run(*WORLD, "--teacher", teacher, "--out", tmp_path / "out") == 1
    assert "different ids" in capsys.readouterr().err


class FakeEngine:
    """Stands for vLLM's offline engine: answers with the request's own seed."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments

    def generate(self, requests: list[Any], parameters: list[Any], use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        return [self._answer(*pair) for pair in zip(requests, parameters, strict=True)]

    def _answer(self, request: dict[str, list[int]], parameters: Any) -> Any:
        assert (parameters.n, parameters.top_p) == (1, 1.0)
        ids = [3 + parameters.seed % 10] * parameters.max_tokens
        reason = "stop" if parameters.seed % 2 else "length"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tuple(ids), finish_reason=reason)])


def test_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("vllm")
    fake.LLM, fake.SamplingParams = FakeEngine, SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    tokenizer = make_tokenizer()
    backend = VLLMBackend("name", tokenizer, dtype="bfloat16", max_model_len=100)
    assert backend._engine.arguments == {"model": "name", "dtype": "bfloat16", "max_model_len": 100}
    sampled = backend.complete([[1, 2]] * 20, 0, max_new_tokens=4, temperature=1.0)
    assert sampled == backend.complete([[1, 2]] * 20, 0, max_new_tokens=4, temperature=1.0)
    assert len({tuple(each.token_ids) for each in sampled}) > 5
    assert len({each.truncated for each in sampled}) == 2
    out = tmp_path / "out"
    assert run(*WORLD, "--backend", "vllm", "--out", out) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert 0 < summary["truncation_rate"] < 1
    assert summary["num_tokens"] == 12
