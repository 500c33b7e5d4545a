"""The rivals that `lora.py` compares with do what they are named for, and its page says what its records hold."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lora as benchmark
import lora_report as report
import pytest
import torch
from lora_run import FoldedSnapshot, Run, SeparateSnapshot
from peft import LoraConfig, get_peft_model
from tiny import tiny_model

from effopd.extrapolation.adapters import find_pairs
from effopd.parameters import clean_name

SCALE = 3.0


def moved(kind: Any) -> tuple[Any, dict[str, torch.Tensor], dict[str, torch.Tensor], Any]:
    """A snapshot of a tiny model with an adapter that has moved: it, the weights before and after, and the model."""
    model = get_peft_model(
        tiny_model(0), LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    factors = {clean_name(name): weight for name, weight in model.named_parameters() if weight.requires_grad}
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in factors.values():
            weight.normal_()
    pairs = find_pairs(model, factors.keys())
    modules = {clean_name(name): module for name, module in model.named_modules()}
    bases = {"bases": {name: modules[name].base_layer.weight.data for name in pairs}}
    before = effective(model, pairs)
    snapshot = kind(factors, pairs, **(bases if kind is FoldedSnapshot else {}))
    with torch.no_grad():
        for weight in factors.values():
            weight.add_(0.1 * torch.randn_like(weight))
    snapshot.displacement()
    snapshot.begin()
    return snapshot, before, effective(model, pairs), model


def effective(model: Any, pairs: Any) -> dict[str, torch.Tensor]:
    """The whole weight of each module, in float64."""
    weights = {clean_name(name): weight.detach().double() for name, weight in model.named_parameters()}
    return {
        module: weights[f"{module}.base_layer.weight"] + pair.scaling * weights[pair.b] @ weights[pair.a]
        for module, pair in pairs.items()
    }


def test_folding_is_exact_and_leaves_the_factors() -> None:
    snapshot, before, now, model = moved(FoldedSnapshot)
    kept = {name: weight.clone() for name, weight in model.named_parameters()}
    for scale in (1.0, SCALE):  # a candidate is not made of another
        snapshot.write_candidate(scale)
    for module, weight in effective(model, snapshot.pairs).items():
        torch.testing.assert_close(
            weight, now[module] + SCALE * (now[module] - before[module]), rtol=0, atol=2e-6 * float(weight.abs().max())
        )
    assert all(torch.equal(kept[name], weight) for name, weight in model.named_parameters() if "lora_" in name)
    snapshot.restore()
    assert all(torch.equal(kept[name], weight) for name, weight in model.named_parameters())


def test_separate_extrapolation_is_that_of_each_factor_and_says_how_far_it_is_off() -> None:
    snapshot, before, now, model = moved(SeparateSnapshot)
    current = {name: weight.clone() for name, weight in snapshot.parameters.items()}
    anchor = {name: weight.clone() for name, weight in snapshot._anchor.items()}
    snapshot.write_candidate(SCALE)
    for name, weight in snapshot.parameters.items():
        torch.testing.assert_close(weight.detach(), current[name] + SCALE * (current[name] - anchor[name]))
    jumped = effective(model, snapshot.pairs)
    off = []
    for module, weight in now.items():
        jump = SCALE * (weight - before[module])
        off.append(float((jumped[module] - weight - jump).norm() / jump.norm()))
    largest, mean = snapshot.truncation[SCALE]
    assert (largest, mean) == (pytest.approx(max(off), rel=1e-4), pytest.approx(sum(off) / len(off), rel=1e-4))
    assert mean > 0.05


def test_runs_have_names_of_their_own() -> None:
    runs = benchmark.planned([0, 1, 2])
    assert len({run.name for run in runs}) == len(runs) == 55 + 2 * (3 * 3 * 3 + 2 * 3)
    assert len(benchmark.planned([0, 1, 2], worlds=["style"])) == 55
    assert {run.arm for run in runs} == set(report.ORDER)


def test_all_arms_are_measured_as_often_where_nothing_was_run_yet() -> None:
    every = {(run.world, run.acceleration): run.evaluate_every for run in benchmark.planned([0, 1, 2])}
    assert {number for (world, _), number in every.items() if world != "style"} == {2}
    path = benchmark.RESULTS / "lora-runs"
    for run in benchmark.planned([0]):
        if (path / f"{run.name}.json").exists():
            assert json.loads((path / f"{run.name}.json").read_text())["run"] == asdict(run)


def record(run: Run, rollouts: int | None, shares: tuple[float, ...] = ()) -> dict[str, Any]:
    quantities = {f"{name}_to_target": rollouts for name in ("steps", "rollouts", "cpu_seconds")}
    return {
        "run": asdict(run),
        **quantities,
        "spent": dict.fromkeys(quantities, rollouts or run.limit),
        "final_accuracy": 0.9,
        "num_accepted": len(shares),
        "candidates": [
            {"step": step, "accepted_scale": 2.0, "tried": [[2.0, True, share], [4.0, False, 0.99]]}
            for step, share in enumerate(shares)
        ],
        "versions": {"effopd": "1"},
    }


def test_the_page_has_costs_ratios_and_what_is_lost(tmp_path: Path) -> None:
    costs = {"vanilla": 1000, "product, paper": 500, "folded, paper": 250, "product, line_search": None}
    records = [
        record(run, costs[run.arm] and costs[run.arm] + run.seed, (0.9, 0.125) if run.arm == "product, paper" else ())
        for run in benchmark.planned([0, 1, 2])
        if run.arm in costs and run.learning_rate == 1e-3 and run.world != "facts"
    ]
    report.write_report(records, tmp_path, "python x", "**Not finished.**")
    text = (tmp_path / "lora.md").read_text()
    for row in (
        "| vanilla | 1,001 [1,000, 1,002] |",
        "| product, paper | 2.00 [2.00, 2.00] |",  # against vanilla
        "| folded, paper | 2.00 [1.99, 2.00] |",  # against product
        "| product, line_search | > 8,192 [8,192, no bound] |",
        "| product, paper | 0.125 [0.125, 0.125], 3 |",  # without each run's first jump
    ):
        assert row in text, row
    assert "**Not finished.**" in text
    style, sibling = text.split("## World `sibling`")
    assert "measured after every step (product, line_search); after every 2 steps (vanilla; product, paper;" in style
    assert "overstate what an arm needs by 64 rollouts, and by those of a validation" in style
    assert "needs to what another needs can be too large by as much." in style
    assert "measured after every 2 steps (vanilla; product, paper; product, line_search)" in sibling
    assert "too large by as much" not in sibling
    assert text.index("World `style`") < text.index("> 8,192") < text.index("World `sibling`") < text.index("> 16,384")
