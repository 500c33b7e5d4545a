import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny_model

from effopd.cli import main
from effopd.errors import CheckpointError, ConfigurationError, DataError
from effopd.files import read_json, write_json_lines
from effopd.linearize import linearize
from effopd.linearized import stages
from effopd.linearized.contexts import Contexts
from effopd.linearized.covariance import distillation, gradient_spread
from effopd.linearized.root import GaussNewtonRoot, completion_logits, dot
from effopd.models.load import load_model
from effopd.report.linearized import write_linearized_report
from effopd.world.tokenizer import make_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A student stored in bf16, its teacher, a model trained from the student, and a file of problems."""
    folder = tmp_path_factory.mktemp("models")
    student = tiny_model(0, torch.bfloat16)
    trained = tiny_model(0, torch.bfloat16).float()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    for name, model in (("student", student), ("teacher", tiny_model(1)), ("trained", trained)):
        model.save_pretrained(folder / name)
        make_tokenizer().save_pretrained(folder / name)
    rows = [{"prompt": f"{i % 10}+{i * 7 % 10}=", "answer": str(i * 8 % 10)} for i in range(15)]
    write_json_lines(folder / "problems.jsonl", rows)
    return {name: str(folder / name) for name in ("student", "teacher", "trained", "problems.jsonl")}


def run(models: dict[str, str], out: Path, **settings: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "task": models["problems.jsonl"],
        "num_steps": 6,
        "max_contexts": 10,
        "max_new_tokens": 4,
        "checkpoints": {"mine": models["trained"]},
    } | settings
    return read_json(linearize(models["student"], models["teacher"], out, **arguments))


@pytest.fixture(scope="module")
def finished(models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("out") / "linearized"
    return out, run(models, out)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds; `finished`, which is made before, has them."""
    monkeypatch.setattr("effopd.linearize.write_linearized_report", lambda out: out / "linearized.html")


def test_the_numbers_are_those_of_the_contexts_that_were_saved(
    models: dict[str, str], finished: tuple[Path, dict[str, Any]]
) -> None:
    out, found = finished
    contexts = Contexts(**load_file(out / "contexts.safetensors"))
    assert found["num_contexts"] == len(contexts.input_ids) == 10
    assert found["num_tokens"] == contexts.num_tokens
    student, teacher = (load_model(models[name], attn_implementation="eager") for name in ("student", "teacher"))
    assert student.dtype == torch.float32
    root = GaussNewtonRoot(student, contexts)
    with torch.no_grad():
        b = root.pull(root.residual(completion_logits(teacher, contexts)))
        teacher_TV = completion_logits(teacher, contexts)
    assert found["driving_norm"] == pytest.approx(dot(b, b) ** 0.5, rel=1e-4)
    spread = gradient_spread(root, distillation(teacher_TV))  # whose mean is its own, and not taken from b
    assert found["trace_opd"]["value"] == pytest.approx(spread.trace, rel=1e-4)
    squares = [sum(norm**2 for norm in found[f"driving_norm_by_{key}"].values()) for key in ("kind", "parameter")]
    assert squares == pytest.approx([found["driving_norm"] ** 2] * 2)
    assert set(found["driving_norm_by_layer"]) == {"0", "1"}
    assert len(found["eigenvalues"]) == len(found["eigenvalue_residuals"]) == len(found["driving_share"]) == 6
    assert found["driving_share"][-1] == pytest.approx(1.0)
    for name in ("trace_opd", "trace_opd_sampled", "trace_rl"):
        low, high = found[name]["interval"]
        assert low <= found[name]["value"] <= high
    assert found["path"]["rows"][0]["cosine"] == pytest.approx(1.0, abs=1e-4)
    assert found["updates"]["mine"]["norm"] == pytest.approx(0.01 * student.num_parameters() ** 0.5, rel=0.1)
    assert "torch" in found["versions"]


def test_fresh_contexts_are_of_the_prompts_that_are_left(
    models: dict[str, str], finished: tuple[Path, dict[str, Any]]
) -> None:
    out, found = finished
    fresh = Contexts(**load_file(out / "fresh_contexts.safetensors"))
    unbiased = found["unbiased"]
    assert unbiased["num_contexts"] == len(fresh.input_ids) == 5 and unbiased["num_tokens"] == fresh.num_tokens
    prompts = [ids[: len("0+0=")].tolist() for ids in fresh.input_ids]
    assert prompts == make_tokenizer()([f"{i % 10}+{i * 7 % 10}=" for i in range(10, 15)])["input_ids"]
    assert len(unbiased["driving_share"]) == len(unbiased["driving_share_error"]) <= 6
    student, teacher = (load_model(models[name], attn_implementation="eager") for name in ("student", "teacher"))
    root = GaussNewtonRoot(student, fresh)
    with torch.no_grad():
        spread = gradient_spread(root, distillation(completion_logits(teacher, fresh)))
    assert unbiased["squared_norm"] == pytest.approx(spread.squared_mean, rel=1e-2, abs=1e-3 * spread.trace)


def test_without_fresh_contexts_only_the_plain_shares_are_told(models: dict[str, str], tmp_path: Path) -> None:
    for number, settings in enumerate(({"max_fresh_contexts": 0}, {"max_contexts": 13})):
        found = run(models, tmp_path / str(number), num_steps=2, checkpoints={}, **settings)
        assert found["unbiased"] is None and len(found["driving_share"]) == 2
        assert not (tmp_path / str(number) / "fresh_contexts.safetensors").exists()


def test_the_report_holds_the_figures(finished: tuple[Path, dict[str, Any]]) -> None:
    out, _ = finished
    page = (out / "linearized.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 4
    assert "5 fresh completions" in page
    assert "<script" not in page
    assert {path.name for path in (out / "figures").iterdir()} == {
        f"{name}.{suffix}" for name in ("spectrum", "path", "modules", "lines") for suffix in ("svg", "pdf", "png")
    }
    assert not (out / "lanczos").exists()


def test_an_interrupted_command_goes_on_to_the_same_numbers(
    models: dict[str, str], finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, real = [], stages.save_file

    def failing(tensors: dict[str, torch.Tensor], path: Path) -> None:
        if len(saved) == 3:
            raise KeyboardInterrupt
        saved.append(path)
        real(tensors, path)

    monkeypatch.setattr(stages, "save_file", failing)
    with pytest.raises(KeyboardInterrupt):
        run(models, tmp_path / "out")
    monkeypatch.undo()
    assert len(list((tmp_path / "out" / "lanczos").glob("*.safetensors"))) == 3
    products = []
    row_product = GaussNewtonRoot.row_product
    monkeypatch.setattr(GaussNewtonRoot, "row_product", lambda *args: products.append(0) or row_product(*args))
    assert run(models, tmp_path / "out") == finished[1]
    assert len(products) == 3


def test_finished_results_are_used_again(
    models: dict[str, str], finished: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effopd.linearize.load_model", lambda *args, **kwargs: pytest.fail("loaded a model"))
    assert run(models, finished[0]) == finished[1]


def test_other_settings_are_refused(models: dict[str, str], finished: tuple[Path, dict[str, Any]]) -> None:
    with pytest.raises(CheckpointError, match=r"num_steps 6 \(now 7\)"):
        run(models, finished[0], num_steps=7)


def test_prompts_without_answers_leave_rl_out(models: dict[str, str], tmp_path: Path) -> None:
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": f"{digit}+1="} for digit in range(4)])
    command = ["linearize", "--student", models["student"], "--teacher", models["teacher"], "--num-steps", "3"]
    command += ["--prompts", str(tmp_path / "prompts.jsonl"), "--max-new-tokens", "3", "--out", str(tmp_path / "out")]
    assert main(command) == 0
    found = json.loads((tmp_path / "out" / "linearized.json").read_text())
    assert found["num_contexts"] == 4
    assert found["trace_rl"] is None
    assert found["trace_opd"]["value"] > 0


def test_the_wanted_standard_error_decides_the_number_of_contexts(models: dict[str, str], tmp_path: Path) -> None:
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": f"{i % 10}*{i // 10}="} for i in range(80)])
    found = [
        run(
            models,
            tmp_path / f"out{error}",
            task=None,
            prompts=tmp_path / "prompts.jsonl",
            standard_error=error,
            max_contexts=80,
            num_steps=2,
            max_new_tokens=2,
            checkpoints={},
        )
        for error in (10.0, 0.001)
    ]
    assert [each["num_contexts"] for each in found] == [32, 80]
    assert found[0]["unbiased"]["num_contexts"] == 32 and found[1]["unbiased"] is None
    assert found[1]["trace_opd"]["relative_standard_error"] < found[0]["trace_opd"]["relative_standard_error"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": None}, "either a task or a file"),
        ({"temperature": 0}, "temperature: got 0"),
        ({"standard_error": 0}, "standard_error: got 0"),
        ({"num_steps": 1}, "num_steps: got 1"),
        ({"max_fresh_contexts": -1}, "max_fresh_contexts: got -1"),
        ({"max_fresh_contexts": 2}, "max_fresh_contexts: got 2, expected a whole number of at least 3"),
        ({"device": "meta"}, "device: got 'meta', expected cpu or cuda"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    models: dict[str, str], tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        run(models, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_student_that_agrees_with_its_teacher_gets_its_report(models: dict[str, str], tmp_path: Path) -> None:
    results = run(models | {"teacher": models["student"]}, tmp_path / "out")
    assert all(loss >= 0 for line in results["lines"].values() for loss in line["true"])
    assert write_linearized_report(tmp_path / "out").exists()


def test_a_single_prompt_is_refused(models: dict[str, str], tmp_path: Path) -> None:
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": "1+1="}])
    with pytest.raises(DataError, match="at least two"):
        run(models, tmp_path / "out", task=None, prompts=tmp_path / "prompts.jsonl")


@pytest.mark.parametrize("prompt", [5, "", [1, 2], [{"role": "user"}], None])
def test_prompts_that_are_none_are_named(models: dict[str, str], tmp_path: Path, prompt: Any) -> None:
    write_json_lines(tmp_path / "prompts.jsonl", [{"prompt": "1+1="}, {"prompt": prompt}])
    with pytest.raises(DataError, match=r"prompts\.jsonl, row 2: got .* as prompt, expected text, or messages"):
        run(models, tmp_path / "out", task=None, prompts=tmp_path / "prompts.jsonl", chat=True)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_has_diverged_is_named_before_the_work(models: dict[str, str], tmp_path: Path) -> None:
    model = load_model(models["trained"])
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    model.save_pretrained(tmp_path / "diverged")
    with pytest.raises(
        DataError, match=r"checkpoint mine, .*diverged: not all numbers of model\.norm\.weight are finite"
    ):
        run(models, tmp_path / "out", checkpoints={"mine": str(tmp_path / "diverged")})
    assert not (tmp_path / "out").exists()
