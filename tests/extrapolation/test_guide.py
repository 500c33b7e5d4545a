"""Guided extrapolation: which parameters a candidate moves, and that all others keep the bits of W_t."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import assert_same, distillation_trainer, weights

from effopd.errors import CheckpointError, ConfigurationError
from effopd.extrapolation import EffOPDCallback, ExtrapolationConfig, Snapshot
from effopd.extrapolation.guide import guided, parse_guide
from effopd.utility import utilities
from extrapolation.scripted import records, script, with_effopd


@pytest.mark.parametrize(
    ("spec", "expected"),
    [("all", ("all", 0.0)), ("utility:1.5", ("utility", 1.5)), ("alignment:-0.5", ("alignment", -0.5))],
)
def test_guides_are_read(spec: str, expected: tuple[str, float]) -> None:
    assert parse_guide(spec) == expected


@pytest.mark.parametrize(
    "spec",
    ["", "utility", "utility:", "utility:0", "utility:nan", "alignment:1.1", "alignment:-1", "norm:1", "all:1", 3],
)
def test_other_guides_are_refused(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match="guide: "):
        ExtrapolationConfig(guide=spec)


def test_a_line_search_is_not_guided(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not go with validator='next_rollouts'"):
        EffOPDCallback(distillation_trainer(tmp_path), preset="line_search", guide="utility:1")


def snapshots() -> tuple[dict[str, torch.Tensor], Snapshot]:
    """Four parameters after two displacements: of the second, `far` is the longest and `back` turns round."""
    parameters = {name: torch.zeros(6) for name in ("far", "near", "back", "still")}
    snapshot = Snapshot(parameters)
    for moves in ({"far": 1.0, "near": 1.0, "back": 1.0}, {"far": 3.0, "near": 0.1, "back": -1.0}):
        snapshot.begin()
        snapshot.commit()
        for name, move in moves.items():
            parameters[name] += move
    return parameters, snapshot


def test_parameters_are_chosen_by_utility_or_alignment() -> None:
    _, snapshot = snapshots()
    displacement = snapshot.displacement()
    assert displacement.cosine_to_previous is not None
    assert displacement.moving == ("far", "near", "back", "still")
    assert displacement.moving_fraction == 1
    squares = {name: move.square for name, move in displacement.parameters.items()}
    assert squares == pytest.approx({"far": 54, "near": 0.06, "back": 6, "still": 0})
    cosines = {name: move.cosine_to_previous for name, move in displacement.parameters.items()}
    assert cosines == {"far": pytest.approx(1), "near": pytest.approx(1), "back": pytest.approx(-1), "still": None}
    for spec, chosen in (
        ("utility:1", ("far",)),
        ("utility:0.3", ("far", "back")),
        ("utility:5", ()),
        ("alignment:0.5", ("far", "near")),
        ("alignment:-0.5", ("far", "near")),
    ):
        assert guided(spec, displacement).moving == chosen
    assert guided("alignment:0.5", displacement).moving_fraction == 0.5


def test_a_parameter_at_the_threshold_is_chosen() -> None:
    parameters = {name: torch.zeros(4) for name in ("one", "other")}
    snapshot = Snapshot(parameters)
    for _ in range(2):
        snapshot.begin()
        snapshot.commit()
        for tensor in parameters.values():
            tensor += 1
    displacement = snapshot.displacement()
    assert {move.cosine_to_previous for move in displacement.parameters.values()} == {1.0}
    for spec in ("utility:1", "alignment:1"):
        assert guided(spec, displacement).moving == ("one", "other")


def test_at_the_first_trigger_alignment_moves_all() -> None:
    parameters = {"a": torch.zeros(2), "b": torch.zeros(2)}
    snapshot = Snapshot(parameters)
    parameters["a"] += 1
    assert guided("alignment:1", snapshot.displacement()).moving == ("a", "b")
    assert guided("utility:1", snapshot.displacement()).moving == ("a",)


def test_a_candidate_moves_the_chosen_parameters_only() -> None:
    parameters, snapshot = snapshots()
    w_t = {name: tensor.clone() for name, tensor in parameters.items()}
    snapshot.begin(["far"])
    for scale in (2.0, 4.0):
        snapshot.write_candidate(scale)
        assert_same(parameters | {"far": w_t["far"]}, w_t)
        assert torch.equal(parameters["far"], w_t["far"] + scale * 3)
    snapshot.restore()
    assert_same(parameters, w_t)
    snapshot.begin()
    snapshot.write_candidate(2.0)
    assert not torch.equal(parameters["back"], w_t["back"])


@pytest.mark.parametrize("spec", ["utility:1", "alignment:0.77"])
def test_accepted_weights_are_those_of_the_step_but_for_the_chosen(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = distillation_trainer(tmp_path, max_steps=2)
    with_effopd(trainer, guide=spec)
    scripted = script(monkeypatch, 0.5, 0.4, 0.1, 0.2, 0.1)
    initial = weights(trainer)
    trainer.train()
    w_1, w_2, candidate = scripted.seen[0], scripted.seen[2], scripted.seen[3]
    deltas = {name: w_2[name] - w_1[name] for name in w_2}
    if spec == "utility:1":
        found = utilities({name: (float((each.double() ** 2).sum()), each.numel()) for name, each in deltas.items()})
        chosen = {name for name, utility in found.items() if utility >= 1}
    else:
        chosen = {
            name
            for name, each in deltas.items()
            if torch.cosine_similarity(each.flatten(), (w_1[name] - initial[name]).flatten(), dim=0) >= 0.77
        }
    assert 0 < len(chosen) < len(deltas)
    assert {name for name in deltas if not torch.equal(candidate[name], w_2[name])} == chosen
    assert_same(weights(trainer), candidate)
    row = records(tmp_path)[-1]
    assert row["moving_fraction"] == sum(deltas[name].numel() for name in chosen) / sum(
        each.numel() for each in deltas.values()
    )


def test_where_nothing_reaches_the_threshold_nothing_is_validated(tmp_path: Path) -> None:
    plain = distillation_trainer(tmp_path / "plain")
    plain.train()
    trainer = distillation_trainer(tmp_path / "guided")
    with_effopd(trainer, guide="utility:1000")
    trainer.train()
    assert_same(weights(plain), weights(trainer))
    for row in records(tmp_path / "guided"):
        assert row["skipped"] == "no parameter reaches the threshold of the guide"
        assert row["rollouts"] == row["moving_fraction"] == 0


@pytest.mark.parametrize("spec", ["utility:1", "alignment:0.77"])
def test_resuming_a_guided_run_is_exact_to_the_bit(spec: str, tmp_path: Path) -> None:
    save = {"save_strategy": "steps", "save_steps": 3, "max_steps": 5}
    whole = distillation_trainer(tmp_path / "whole", **save)
    with_effopd(whole, guide=spec)
    whole.train()
    checkpoint = tmp_path / "resumed" / "checkpoint-3"
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", checkpoint)
    shutil.copy(tmp_path / "whole" / "extrapolations.jsonl", tmp_path / "resumed")
    resumed = distillation_trainer(tmp_path / "resumed", **save)
    with_effopd(resumed, guide=spec)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same(weights(whole), weights(resumed))
    fractions = [row["moving_fraction"] for row in records(tmp_path / "whole")]
    assert 0 < fractions[-1] < 1
    assert fractions == [row["moving_fraction"] for row in records(tmp_path / "resumed")]
    other = distillation_trainer(tmp_path / "resumed", **save)
    with_effopd(other)
    with pytest.raises(CheckpointError, match=r"guide '.*' \(now 'all'\)"):
        other.train(resume_from_checkpoint=str(checkpoint))
