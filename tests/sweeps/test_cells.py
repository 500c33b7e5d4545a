import shutil
from collections import Counter
from pathlib import Path

import pytest
from sweeps.short_runs import make

from effopd.checkpoints import Checkpoint
from effopd.errors import ConfigurationError, DataError
from effopd.sweeps import plan_cells
from effopd.sweeps.cells import SweepPlan
from effopd.sweeps.presets import EmbeddingReplacement, NormMatching, SlidingWindow, TopBottom, UpdateNorm
from effopd.sweeps.results import differences
from effopd.sweeps.sweep_models import TrainingRun, thin

STEPS = (5, 10, 20, 100)


def a_run(num_layers: int = 4, steps: tuple[int | None, ...] = STEPS, most: int | None = None) -> TrainingRun:
    checkpoints = tuple(Checkpoint(step, Path(f"/run/{number}")) for number, step in enumerate(steps))
    finals = {"A": Path("/run/3"), "B": Path("/other")}
    return TrainingRun("A", 0, checkpoints, tuple(range(num_layers)), most, most, finals)


def test_update_norm_scales_the_last_checkpoint_and_takes_all_others_as_they_are() -> None:
    points = list(UpdateNorm(values=(0.5, 0)).plan(a_run()))
    assert [(p.kind, p.value, p.checkpoint) for p in points] == [
        *[("scale", alpha, 3) for alpha in (0, 0.5, 1)],
        *[("checkpoint", step, index) for index, step in enumerate(STEPS)],
    ]
    assert all(point.x == "update_norm" for point in points)
    assert points[2].interventions == points[-1].interventions == ()


@pytest.mark.parametrize(("num_layers", "half_width"), [(2, 0), (4, 1), (12, 3), (28, 8), (40, 8)])
def test_windows_are_as_wide_as_the_papers_relative_to_the_depth(num_layers: int, half_width: int) -> None:
    points = list(SlidingWindow().plan(a_run(num_layers)))
    windows = [point for point in points if point.kind in ("mlp", "attention")]
    assert [(p.kind, p.value) for p in windows] == [(m, c) for m in ("mlp", "attention") for c in range(num_layers)]
    assert {point.interventions[0]["window"]["half_width"] for point in windows} == {half_width}
    assert {point.kind for point in points} == {"mlp", "attention", "base", "trained"}
    with pytest.raises(ConfigurationError, match="expected layers from 0 to"):
        list(SlidingWindow(values=(99,)).plan(a_run(num_layers)))


def test_top_components_take_the_norms_of_one_run_and_bottom_ones_keep_theirs() -> None:
    for name, final in ((None, "/run/3"), ("B", "/other")):
        points = list(TopBottom(values=(10, 50), norm_like=name).plan(a_run()))
        tops = [point.interventions[0]["top"] for point in points if point.kind == "top"]
        bottoms = [point.interventions[0]["bottom"] for point in points if point.kind == "bottom"]
        assert tops == [{"percent": percent, "other": "base", "norm_like": final} for percent in (10, 50)]
        assert bottoms == [{"percent": percent, "other": "base"} for percent in (10, 50)]
    with pytest.raises(ConfigurationError, match="got the run 'C', expected one of A, B"):
        list(TopBottom(norm_like="C").plan(a_run()))


def test_norm_matching_takes_the_checkpoint_nearest_to_a_tenth_of_the_training() -> None:
    points = list(NormMatching(values=(0.5,)).plan(a_run()))
    betas = [point for point in points if point.kind == "beta"]
    assert {point.checkpoint for point in betas} == {1}
    assert [point.value for point in betas] == [0, 0.5, 1]
    matched = [point for point in points if point.kind == "norm-match"]
    assert [point.value for point in matched] == list(STEPS)
    assert matched[-1].interventions == ()  # the last one has its norm
    assert matched[0].interventions == ({"norm-match": {"final": "/run/3", "beta": 1.0}},)


def test_checkpoints_without_steps_are_counted() -> None:
    run = a_run(steps=(None, None, None, None))
    assert [run.time(index) for index in range(4)] == [1, 2, 3, 4]
    assert run.early(0.1) == 0


def test_a_thinned_run_keeps_its_first_and_last_checkpoint() -> None:
    assert a_run(most=2).over_training == (0, 3)


def test_what_is_thinned_is_evenly_spaced() -> None:
    assert thin(tuple(range(11)), 4) == (0, 3, 7, 10)
    assert thin(tuple(range(11)), 1) == (10,)


def test_a_model_that_several_sweeps_want_is_one_cell(root: Path) -> None:
    sweeps = ["update_norm", "embedding_replacement", "top_bottom", "norm_matching"]
    plan = plan_cells(make(root, sweeps=sweeps, teacher="world:teacher", seeds=[0, 1]))
    assert max(Counter(cell.key for cell in plan.cells).values()) == 1
    as_trained = [cell for cell in plan.cells if not cell.interventions and cell.resident == ("OPD", 1, 2)]
    assert [cell.seed for cell in as_trained] == [0, 1]
    assert {use.sweep for use in as_trained[0].uses} == set(sweeps)
    assert as_trained[0].kl and not any(cell.kl for cell in plan.cells if "top" in str(cell))
    other_way = plan_cells(make(root, sweeps=sweeps[::-1], teacher="world:teacher", seeds=[0, 1])).cells
    assert {cell.key for cell in other_way} == {cell.key for cell in plan.cells}
    norms = {entry["top"]["norm_like"] for cell in plan.cells for entry in cell.interventions if "top" in entry}
    assert norms == {str(root / run / "checkpoint-20") for run in ("opd-0", "opd-1")}
    of_seeds = {
        (cell.resident[:2], str(cell.interventions)) for cell in plan.cells if "'top'" in str(cell.interventions)
    }
    assert all(f"opd-{seed}" in made for (_, seed), made in of_seeds)  # GRPO's only seed takes those of the first


def test_a_sweep_may_be_of_some_runs_only(root: Path) -> None:
    plan = plan_cells(make(root, sweeps=[{"preset": "embedding_replacement", "runs": ["GRPO"]}]))
    assert {cell.run for cell in plan.cells} == {"GRPO"} and len(plan.cells) == 3


def test_runs_that_do_not_match_the_base_are_refused_before_anything_is_done(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        plan_cells(make(root, runs={"none": "nowhere"}))
    with pytest.raises(DataError, match=r"no/such/teacher: no such file or directory"):
        plan_cells(make(root, teacher="no/such/teacher"))
    (tmp_path / "config.json").touch()
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(DataError, match="the weights are pickles"):
        plan_cells(make(root, teacher=str(tmp_path)))
    with pytest.raises(ConfigurationError, match=r"OPD: seeds: .*checkpoint-20' twice"):
        plan_cells(make(root, runs={"OPD": {"seeds": ["opd-0", "./opd-0"]}}))


def test_models_that_norms_are_taken_from_are_found_checked_and_remembered(root: Path, tmp_path: Path) -> None:
    def planned(final: str) -> SweepPlan:
        fields = {"kind": "norm-match", "vary": "beta", "values": [0.5], "fields": {"final": final}}
        return plan_cells(make(root, sweeps=[{"preset": "intervention", **fields}], runs={"a": "grpo-0"}))

    place = str(root / "opd-0" / "checkpoint-20")
    plans = [planned("opd-0/checkpoint-20"), planned(place)]  # the first by its name below `root`
    assert all(plan.cells[0].interventions == ({"norm-match": {"final": place, "beta": 0.5}},) for plan in plans)
    with pytest.raises(DataError, match="no such file or directory"):
        planned("./nowhere")
    other = shutil.copytree(place, tmp_path / "other")
    before = planned(str(other)).identity | {"problems": {}}
    assert differences(before, before) == []
    shutil.copy(root / "opd-0" / "checkpoint-10" / "model.safetensors", other)
    assert differences(before, planned(str(other)).identity | {"problems": {}}) == [
        f"norms of {other}, whose files have changed since"
    ]


def test_all_interventions_over_training(root: Path) -> None:
    entry = {"preset": "intervention", "kind": "scale", "vary": "alpha", "values": [2], "over_training": True}
    cells = plan_cells(make(root, sweeps=[entry], runs={"a": "grpo-0"})).cells
    assert [cell.uses[0].kind for cell in cells] == [f"scale, step {step}" for step in (1, 10, 20)]
    assert EmbeddingReplacement().name == "embedding_replacement"
