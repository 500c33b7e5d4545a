"""A study of one's own models: what its specification may say, and a whole one on made-up Qwen3-shaped runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from walk_through.test_walk_through import write_models

from effopd.cli import main
from effopd.errors import ConfigurationError, EffOPDError
from effopd.study import read_own_models, run, study
from effopd.study.records import SWEEPS
from effopd.sweeps import SweepResult
from effopd.world import base_dir

CONTENT: dict[str, Any] = {
    "base": "world:base",
    "runs": {"OPD": "opd", "GRPO": {"seeds": ["a", "b"]}},
    "tasks": ["world"],
}


def write(path: Path, **changes: Any) -> Path:
    content = {key: value for key, value in (CONTENT | changes).items() if value is not None}
    path.write_text(yaml.safe_dump(content))
    return path


def test_names_of_runs_are_roles_and_all_sweeps_are_planned(tmp_path: Path) -> None:
    own = read_own_models(write(tmp_path / "mine.yaml"))
    assert own.roles == {"opd": "OPD", "rl": "GRPO"} and own.name == "mine" and own.target is None
    assert own.places() == {("opd", 0): "opd", ("rl", 0): "a", ("rl", 1): "b"}
    assert [sweep.name for sweep in own.sweep.sweeps] == list(SWEEPS)
    assert own.sweep.sweeps[SWEEPS.index("top_bottom")].norm_like == "OPD"  # type: ignore[attr-defined]


def test_roles_and_sweeps_can_be_given(tmp_path: Path) -> None:
    path = write(
        tmp_path / "mine.yaml",
        runs={"mine": "x", "other": "y"},
        roles={"opd": "mine"},
        sweeps=["update_norm"],
        target=0.8,
    )
    own = read_own_models(path)
    assert own.roles == {"opd": "mine"} and own.target == 0.8 and len(own.sweep.sweeps) == 1
    assert own.linearized is None


def test_a_linearisation_and_the_roles_of_the_boundary_can_be_given(tmp_path: Path) -> None:
    (tmp_path / "view").mkdir()
    (tmp_path / "view" / "linearized.json").write_text("{}")
    runs = {"OPD": "a", "GRPO": "b", "longer": "c"}
    roles = {"opd": "OPD", "rl": "GRPO", "rl-x2": "longer"}
    own = read_own_models(write(tmp_path / "mine.yaml", runs=runs, roles=roles, linearized=str(tmp_path / "view")))
    assert own.linearized == str(tmp_path / "view") and own.roles == roles


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": {"rl": "x", "GRPO": "y"}}, r"The runs GRPO and rl have both the role rl.*roles: \{rl: rl\}"),
        ({"runs": {"mine": "x"}}, r"No run has a role: got runs named mine.*roles: \{opd: mine\}"),
        ({"roles": {"opd": "nobody"}}, "roles: opd: got 'nobody', expected one of GRPO, OPD"),
        ({"roles": {"rl": "GRPO", "dapo": "GRPO"}}, "roles: dapo and rl are the same run, GRPO; expected another run"),
        ({"roles": {"teacher": "OPD"}}, "roles: got 'teacher', expected one of opd, rl"),
        ({"roles": ["opd"]}, r"roles: got \['opd'\]"),
        ({"target": 2}, "target: got 2"),
        ({"linearized": "nowhere"}, r"linearized: nowhere has no linearized\.json"),
        ({"linearized": 3}, "linearized: got 3"),
        ({"runs": None}, "runs: got None"),
        ({"tasks": None}, "tasks is missing"),
        ({"limits": 3}, "got the field 'limits'.*Did you mean limit"),
    ],
)
def test_wrong_specifications(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read_own_models(write(tmp_path / "mine.yaml", **changes))


def test_files_that_are_no_specification(tmp_path: Path) -> None:
    for text, message in (("a: [", "cannot be read as YAML"), ("- 1", "must map fields to values, got list")):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ConfigurationError, match=message):
            read_own_models(tmp_path / "bad.yaml")
    with pytest.raises(ConfigurationError, match=r"There is no file .*none\.yaml"):
        read_own_models(tmp_path / "none.yaml")


def test_errors_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = write(tmp_path / "mine.yaml")
    out = ["--out", str(tmp_path / "out")]
    for arguments, message in (
        ([str(spec), "--quick", "--seeds", "2", *out], "--quick, --seeds: these choose what is trained"),
        (["--worlds", "mars", *out], "got 'mars', expected one of style, facts, sibling"),
        ([str(tmp_path / "none.yaml"), *out], "There is no file"),
        (["--quick", "--gpus-per-worker", "1", *out], "embedded worlds are for CPUs. Leave --gpus-per-worker out"),
        ([str(spec), "--gpus-per-worker", "-1", *out], "gpus_per_worker: got -1"),
    ):
        assert main(["study", *arguments]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    for arguments in (["study"], ["study", "--seeds", "0", *out]):
        with pytest.raises(SystemExit):
            main(arguments)


@pytest.mark.parametrize("field", ["base", "runs", "teacher", "tasks"])
def test_a_path_that_is_wrong_leaves_nothing_behind(tmp_path: Path, field: str) -> None:
    run, none = base_dir(), str(tmp_path / "none.jsonl")
    spec = {"runs": {"OPD": str(run)}, "sweeps": ["update_norm"], "teacher": "world:teacher"}
    spec[field] = {"runs": {"OPD": none}, "tasks": [none]}.get(field, none)
    with pytest.raises(EffOPDError, match=r"none\.jsonl"):
        study(read_own_models(write(tmp_path / "mine.yaml", **spec)), tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()


def test_models_are_evaluated_on_the_gpus_that_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(run, "check_workers", lambda *settings: asked.append({"checked": settings}))
    monkeypatch.setattr(run, "analyze", lambda *args, **kwargs: None)
    monkeypatch.setattr(
        run, "sweep", lambda spec, out, **kwargs: asked.append(kwargs) or SweepResult(out, 1, 0, [], [])
    )
    what = read_own_models(write(tmp_path / "mine.yaml"))
    monkeypatch.setattr(type(what), "check", lambda self: None)
    study(what, tmp_path / "out", workers=1, gpus_per_worker=0.5)
    assert asked[0] == {"checked": (1, None, 0.5)} and asked[1]["gpus_per_worker"] == 0.5


@pytest.mark.slow
def test_a_study_of_qwen3_shaped_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two runs of three checkpoints, by `effopd study SPEC.yaml`; a second start does nothing again."""
    write_models(tmp_path)
    content = yaml.safe_load((tmp_path / "sweep.yaml").read_text())
    content["sweeps"] = [
        {"preset": "update_norm", "values": [0, 1]},
        {"preset": "sliding_window", "values": [0, 4, 7, 11]},
        {"preset": "top_bottom", "values": [1, 90, 100]},
    ]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    command = ["study", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 0
    found = {claim["name"]: claim for claim in json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]}
    for name in ("spectral_ratio", "effective_rank", "early_alignment_10", "gain_per_norm", "low_sensitivity"):
        assert list(found[name]["worlds"]) == ["study"] and found[name]["verdict"] == "undecided", name
    assert abs(found["spectral_ratio"]["estimate"]) < 0.1  # both are noise
    assert found["norm_scaling_gain"]["notes"] == ["study: lacks the sweep norm_matching of opd (seed 0)"]
    assert found["effopd_steps"]["notes"] == ["study: there are no runs of effopd"]
    assert found["exopd_rollouts"]["verdict"] == "not measured"
    report = (tmp_path / "out" / "study.html").read_text()
    assert "Not measured" in report and "before Holm: study: undecided" in report
    results = tmp_path / "out" / "study" / "sweep" / "results.parquet"
    before = json.loads((tmp_path / "out" / "claims.json").read_text())["claims"]
    capsys.readouterr()
    assert main(command) == 0
    assert results.exists() and json.loads((tmp_path / "out" / "claims.json").read_text())["claims"] == before
    assert "cells: " not in capsys.readouterr().out  # nothing was left to describe
