"""Parameters that are not trained: which they are, that they keep their bits, and what that saves."""

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from small_runs import world
from tiny_models import write_tiny_qwen3

from effopd.analysis import analyze
from effopd.errors import ConfigurationError, DataError
from effopd.models.load import load_model
from effopd.training import build_trainer, train
from effopd.training.config_file import parse_config
from effopd.training.freezing import early_moves, freeze
from effopd.utility import utilities
from effopd.world import base_dir

MLP = {"freeze": [r"\.mlp\."]}
VANILLA = {"acceleration": "none", "extrapolation": None}


def final(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def changed(directory: Path) -> set[str]:
    base = load_file(base_dir() / "model.safetensors")
    return {name for name, weight in final(directory).items() if not torch.equal(weight, base[name])}


@pytest.mark.parametrize(
    "arguments",
    [
        VANILLA,
        {"acceleration": "line_search", "extrapolation": {"num_prompts": 8}},
        {"extrapolation": {"num_prompts": 8}},
    ],
)
def test_frozen_parameters_keep_their_bits_and_have_no_state(arguments: dict[str, Any], tmp_path: Path) -> None:
    train(*world(tmp_path, MLP | arguments, weight_decay=0.1, max_steps=3))
    names = set(final(tmp_path))
    frozen = {name for name in names if ".mlp." in name}
    assert changed(tmp_path) == names - frozen
    sizes = {name: weight.numel() for name, weight in final(tmp_path).items()}
    assert sorted(json.loads((tmp_path / "frozen.json").read_text())["parameters"]) == sorted(frozen)
    elements, rest = sum(sizes[name] for name in frozen), sum(sizes[name] for name in names - frozen)
    found = json.loads((tmp_path / "run.json").read_text())["frozen"]
    assert (found["elements"], found["elements_of_all"]) == (elements, elements + rest)
    assert found["optimizer_bytes"] == pytest.approx(8 * rest, rel=1e-2)  # two float32 moments of AdamW, and its steps
    assert found["optimizer_bytes_saved"] == pytest.approx(8 * elements, rel=1e-2)
    assert found["gradient_bytes_saved"] == 4 * elements


def test_without_freezing_nothing_is_written_about_it(tmp_path: Path) -> None:
    train(*world(tmp_path, VANILLA, max_steps=1))
    assert not (tmp_path / "frozen.json").exists()
    assert "frozen" not in json.loads((tmp_path / "run.json").read_text())


def test_a_frozen_run_resumes_to_the_bit(tmp_path: Path) -> None:
    train(*world(tmp_path / "whole", MLP))
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    for name in ("run.json", "model.safetensors"):
        (tmp_path / "resumed" / name).unlink()
    shutil.rmtree(tmp_path / "resumed" / "checkpoint-6")
    train(*world(tmp_path / "resumed", MLP))
    whole, resumed = final(tmp_path / "whole"), final(tmp_path / "resumed")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(ConfigurationError, match="other settings"):
        train(*world(tmp_path / "resumed", {"freeze": [r"\.self_attn\."]}))


def test_gradient_checkpointing_trains_below_frozen_layers(tmp_path: Path) -> None:
    """The layers that are left are the lowest, so their gradient goes through all others."""
    arguments = VANILLA | {"freeze": ["embed_tokens", "lm_head", "model.norm", r"layers\.[123]\."]}
    for name, checkpointing in (("plain", False), ("checkpointed", True)):
        train(*world(tmp_path / name, arguments, gradient_checkpointing=checkpointing, max_steps=2))
    assert changed(tmp_path / "plain") == {name for name in final(tmp_path / "plain") if ".layers.0." in name}
    plain, checkpointed = final(tmp_path / "plain"), final(tmp_path / "checkpointed")
    for name in plain:
        torch.testing.assert_close(plain[name], checkpointed[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_a_tied_parameter_is_frozen_in_both_its_uses(name: str, tmp_path: Path) -> None:
    model = load_model(write_tiny_qwen3(tmp_path, tied=True))
    freeze(model, [name])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["model.embed_tokens.weight"]


def test_what_cannot_be_frozen_is_refused(tmp_path: Path) -> None:
    for patterns, message in (
        (["vision"], "'vision' matches none"),
        ([r"\.mlp\.", "("], "not a regular expression"),
        (["all"], "nothing to train"),
        (["attention_and_mlp", "embed", "lm_head", "norm"], "nothing to train"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            build_trainer(*world(tmp_path, {"freeze": patterns}))
    with pytest.raises(ConfigurationError, match="freeze_below=2 has no effect"):
        world(tmp_path, {"freeze_below": 2})
    with pytest.raises(ConfigurationError, match="freeze_below: got 0"):
        world(tmp_path, {"freeze_below": 0, "freeze_like": "x"})
    with pytest.raises(DataError, match="no finished analysis"):
        build_trainer(*world(tmp_path, {"freeze_like": str(tmp_path / "nowhere")}))


def test_low_utility_parameters_of_an_analysis_are_frozen(tmp_path: Path) -> None:
    train(*world(tmp_path / "early", VANILLA, max_steps=2, save_steps=1))
    analyze(base_dir(), {"early": tmp_path / "early"}, tmp_path / "analysis")
    base, early = load_file(base_dir() / "model.safetensors"), load_file(
        tmp_path / "early" / "checkpoint-1" / "model.safetensors"
    )  # fmt: skip
    squares = {name: ((early[name] - base[name]).double() ** 2).mean().item() for name in base}
    total = sum(squares[name] * base[name].numel() for name in base) / sum(weight.numel() for weight in base.values())
    assert utilities(early_moves(tmp_path / "analysis")) == pytest.approx({n: s / total for n, s in squares.items()})
    arguments = VANILLA | {"freeze_like": str(tmp_path / "analysis")}
    train(*world(tmp_path / "run", arguments | {"freeze_below": 0.9}, max_steps=1))
    assert 0 < len(changed(tmp_path / "run")) < len(base)
    assert changed(tmp_path / "run") == {name for name, square in squares.items() if square >= 0.9 * total}
    with pytest.raises(DataError, match=r"no parameter of a utility below 0\.001; the least is"):
        build_trainer(*world(tmp_path / "none", arguments | {"freeze_below": 0.001}))
    with pytest.raises(ConfigurationError, match="nothing to train"):
        build_trainer(*world(tmp_path / "none", arguments | {"freeze_below": 1000}))
    student = write_tiny_qwen3(tmp_path / "student")
    with pytest.raises(DataError, match="is of another model: the student has no"):
        freeze(load_model(student), [], str(tmp_path / "analysis"))


def write_analysis(directory: Path, rows: list[tuple[str, str, float]]) -> str:
    """The columns of `updates.parquet` that count; every parameter has two rows and three columns."""
    directory.mkdir()
    table = [
        {"run": run, "checkpoint": 0, "parameter": name, "rows": 2, "cols": 3, "frobenius_norm": norm}
        for run, name, norm in rows
    ]
    pq.write_table(pa.Table.from_pylist(table), directory / "updates.parquet")
    return str(directory)


def test_analyses_that_cannot_be_used(tmp_path: Path) -> None:
    model = torch.nn.ModuleDict({name: torch.nn.Linear(3, 2, bias=False) for name in ("a", "b")})
    two = write_analysis(tmp_path / "two", [("x", "a.weight", 1.0), ("y", "a.weight", 1.0)])
    with pytest.raises(DataError, match="has the runs x, y; expected an analysis of one"):
        freeze(model, [], two)
    (tmp_path / "two" / "updates.parquet").write_text("damaged")
    with pytest.raises(DataError, match="cannot be read"):
        freeze(model, [], two)
    still = write_analysis(tmp_path / "still", [("x", "a.weight", 0.0), ("x", "b.weight", 0.0)])
    with pytest.raises(DataError, match="differs from the base's"):
        freeze(model, [], still)


def test_experts_of_a_stack_and_uses_of_a_tied_tensor_count_together(tmp_path: Path) -> None:
    model = torch.nn.Module()
    model.stack = torch.nn.Parameter(torch.zeros(2, 2, 3))
    model.other, model.head, model.low = (torch.nn.Linear(3, 2, bias=False) for _ in range(3))
    model.embed = model.other
    model.embed.weight = model.head.weight
    rows = [("stack[0]", 0.0), ("stack[1]", 5.0), ("head.weight", 9.0), ("embed.weight", 0.1), ("low.weight", 0.1)]
    analysis = write_analysis(tmp_path / "analysis", [("x", name, norm) for name, norm in rows])
    freeze(model, [], analysis)
    assert [name for name, each in model.named_parameters() if not each.requires_grad] == ["stack", "low.weight"]


def test_an_analysis_that_changes_during_a_run_is_noticed(tmp_path: Path) -> None:
    train(*world(tmp_path / "early", VANILLA, max_steps=1, save_steps=1))
    analyze(base_dir(), {"early": tmp_path / "early"}, tmp_path / "analysis")
    arguments = VANILLA | {"freeze_like": str(tmp_path / "analysis")}
    train(*world(tmp_path / "run", arguments, max_steps=2, save_steps=1))
    (tmp_path / "run" / "run.json").unlink()
    shutil.rmtree(tmp_path / "run" / "checkpoint-2")
    frozen = json.loads((tmp_path / "run" / "frozen.json").read_text())
    frozen["parameters"].pop()
    (tmp_path / "run" / "frozen.json").write_text(json.dumps(frozen))
    with pytest.raises(ConfigurationError, match="the analysis of freeze_like has changed since"):
        train(*world(tmp_path / "run", arguments, max_steps=2, save_steps=1))


def test_patterns_from_a_file_and_from_the_command_line(tmp_path: Path) -> None:
    recipe = (files("effopd") / "recipes" / "world.yaml").read_text()
    (tmp_path / "run.yaml").write_text(recipe + "freeze: 'layers\\.0\\.'\n")
    assert parse_config(str(tmp_path / "run.yaml"))[0].freeze == [r"layers\.0\."]
    overrides = ["--freeze", "embed_tokens", r"\.mlp\.", "--freeze_like", "analysis", "--freeze_below", "0.8"]
    arguments, _ = parse_config("world", overrides)
    assert arguments.freeze == ["embed_tokens", r"\.mlp\."]
    assert (arguments.freeze_like, arguments.freeze_below) == ("analysis", 0.8)
