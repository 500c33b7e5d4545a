"""A study goes piece by piece, resumes, refuses other claims, and reports what failed."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from study.made_up import metrics

from effopd.errors import CheckpointError, ConfigurationError, DataError, DivergedError, EffOPDError
from effopd.study import StudyPlan, make_plan, run, study
from effopd.study import pieces as pieces_module
from effopd.study import training as training_module
from effopd.study.boundary import ROLES as BOUNDARY
from effopd.study.claims.norms import ALGORITHMS, EARLY
from effopd.study.plan import Training
from effopd.sweeps import SweepResult, make_spec
from effopd.training.config_file import recipes  # noqa: F401  (the training package is loaded once, outside the tests)


class Pieces:
    """Stands in for training, analysis and sweep: notes what was asked for, and does what is not there yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.prompts: dict[int, set[str]] = {}
        self.before: Callable[[str], None] = lambda name: None
        monkeypatch.setattr(training_module, "do_training", self.train)
        monkeypatch.setattr(pieces_module, "linearize", self.linearize)
        monkeypatch.setattr(run, "analyze", self.analyze)
        monkeypatch.setattr(run, "sweep", self.sweep)

    def _do(self, name: str) -> None:
        self.before(name)
        self.done.append(name)

    def train(self, training: Training, directory: Path) -> None:
        if (directory / "run.json").exists():
            return
        self._do(training.name)
        directory.mkdir(parents=True, exist_ok=True)
        steps = 100 if training.role == "opd" else 25
        rows = metrics(steps + training.seed % 3, 0.99)
        for row in rows:
            row["accuracy"] = 0.97 if row["accuracy"] == 0.8 else row["accuracy"]
        (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (directory / "run.json").write_text("{}")

    def linearize(self, student: str, teacher: str, out: Path, **settings: Any) -> None:
        assert (student, teacher) == ("world:style/base", "world:style/teacher")
        task = settings["task"]
        assert (task.name, len(task.prompts)) == ("world:style/train", 160) and out.parent.name == "linearized"
        self.prompts[settings["seed"]] = set(task.prompts)
        if not (out / "linearized.json").exists():
            self._do(f"linearized-{settings['seed']}")
            out.mkdir(parents=True)
            view = {"cosine_opd_rl": 0.5 if settings["seed"] == 200 else -0.3, "driving_norm_by_parameter": {}}
            traces = {"trace_opd": {"squared_mean": 1.0}, "trace_rl": {"squared_mean": 1.0}}
            (out / "linearized.json").write_text(json.dumps(view | traces))

    def analyze(self, base: str, runs: dict[str, str], out: Path, **settings: Any) -> None:
        assert base == "world:style/base" and set(runs) == {"opd-200", "opd-201", "rl-200", "rl-201"}
        self._do("analysis")

    def sweep(self, spec: Any, out: Path, **settings: Any) -> SweepResult:
        assert list(spec.runs) == ["OPD", "RL (GRPO)"]
        self._do("sweep")
        return SweepResult(out, 1, 0, [], [])


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> Pieces:
    return Pieces(monkeypatch)


LINEARIZED = ["linearized-200", "linearized-201"]
TRAINED = [f"{role}-{seed}" for seed in (200, 201) for role in ("opd", "effopd", "rl", "line_search")]


def claims(out: Path) -> dict[str, Any]:
    return {claim["name"]: claim for claim in json.loads((out / "claims.json").read_text())["claims"]}


def quick() -> StudyPlan:
    return make_plan("quick")


def test_pieces_in_order_and_the_report(tmp_path: Path, pieces: Pieces) -> None:
    report = study(quick(), tmp_path / "out", workers=1)
    assert pieces.done == [*LINEARIZED, *TRAINED, "analysis", "sweep"]
    found = claims(tmp_path / "out")
    assert len(pieces.prompts[200] & pieces.prompts[201]) < 20  # of 160: each seed has its own
    assert found["effopd_steps"]["worlds"]["style"]["values"] == {"200": 102 / 27, "201": 100 / 25}
    assert found["mean_gradients_agree"]["worlds"]["style"]["values"] == {"200": 0.5, "201": -0.3}
    assert found["spectral_ratio"]["verdict"] == "not measured"
    assert "there are no runs of dapo" in found["gain_per_norm_dapo"]["notes"][0]
    page = report.read_text()
    identity = json.loads((tmp_path / "out" / "study.json").read_text())
    assert identity["claims_sha256"] in page and "EffOPD needs at least 3 times fewer optimizer steps" in page
    written = tmp_path / "out" / "written_down"
    assert "def cost_ratio" in (written / "claims" / "cost.py").read_text() and (written / "verdict.py").exists()
    evidence = (tmp_path / "out" / "evidence.md").read_text()
    assert evidence.startswith("## Verdicts")
    for text in (page, evidence):
        assert "Where the contrast begins" in text and "RL trains longer, in style: lacks the sweep" in text


@pytest.mark.parametrize("at", ["linearized-201", "rl-200", "analysis", "sweep"])
def test_an_interrupted_study_does_only_the_rest(tmp_path: Path, pieces: Pieces, at: str) -> None:
    def interrupt(name: str) -> None:
        if name == at:
            raise KeyboardInterrupt

    pieces.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        study(quick(), tmp_path, workers=1)
    assert (tmp_path / "study.html").exists()  # a report of what there is
    assert {claim["verdict"] for claim in claims(tmp_path).values()} <= {"undecided", "not measured"}
    before = list(pieces.done)
    pieces.before, pieces.done = lambda name: None, []
    study(quick(), tmp_path, workers=1)
    whole = [*LINEARIZED, *TRAINED, "analysis", "sweep"]
    assert pieces.done == [name for name in whole if name not in before or name == "analysis"]


def test_a_finished_study_only_writes_its_report(tmp_path: Path, pieces: Pieces) -> None:
    study(quick(), tmp_path, workers=1)
    before, report = list(pieces.done), (tmp_path / "study.html").read_bytes()
    (tmp_path / "study.html").unlink()
    assert study(quick(), tmp_path, workers=1).read_bytes() == report
    assert pieces.done == before


def test_other_claims_seeds_or_worlds_are_refused(
    tmp_path: Path, pieces: Pieces, monkeypatch: pytest.MonkeyPatch
) -> None:
    study(quick(), tmp_path, workers=1)
    for other in (replace(quick(), seeds=(200,)), make_plan(worlds=["style"])):
        with pytest.raises(CheckpointError, match="holds a study with other settings"):
            study(other, tmp_path, workers=1)
    texts = run.written_down()
    changed = texts["claims/cost.py"].replace("threshold = 3.0", "threshold = 2.0")
    assert changed != texts["claims/cost.py"]
    monkeypatch.setattr(run, "written_down", lambda: texts | {"claims/cost.py": changed})
    with pytest.raises(CheckpointError, match="claims_sha256"):
        study(quick(), tmp_path, workers=1)
    assert "threshold = 3.0" in (tmp_path / "written_down" / "claims" / "cost.py").read_text()


def test_a_piece_that_fails_is_named_and_nothing_of_it_is_decided(tmp_path: Path, pieces: Pieces) -> None:
    def diverge(name: str) -> None:
        if name in ("effopd-201", "rl-200"):
            raise DivergedError("training has diverged.")
        if name == "linearized-201":
            raise DataError("there is no such model.")

    pieces.before = diverge
    with pytest.raises(EffOPDError, match=r"4 pieces failed.*style/linearized-201: there is no such model\. The same"):
        study(quick(), tmp_path, workers=1)
    content = json.loads((tmp_path / "claims.json").read_text())
    assert content["failed"][1:3] == [f"style/{name}: training has diverged." for name in ("rl-200", "effopd-201")]
    assert "nothing was analysed, because rl-200 failed" in content["failed"][3]
    assert "analysis" not in pieces.done and "line_search-201" in pieces.done
    found = claims(tmp_path)["effopd_rollouts"]
    assert found["verdict"] == "undecided" and "of effopd (seed 201)" in found["notes"][0]
    assert "lacks the local quadratic view" in claims(tmp_path)["mean_gradients_agree"]["notes"][0]
    assert "training has diverged" in (tmp_path / "study.html").read_text()
    pieces.before = lambda name: None
    study(quick(), tmp_path, workers=1)
    assert pieces.done.count("effopd-201") == pieces.done.count("linearized-201") == 1 and pieces.done[-1] == "sweep"


def test_a_directory_of_something_else_is_refused(tmp_path: Path, pieces: Pieces) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is not empty and holds no study"):
        study(quick(), tmp_path, workers=1)
    assert not pieces.done


@pytest.mark.parametrize(("name", "checkpoints"), [("full", 20), ("short", 10)])
def test_plans_of_all_methods(name: Literal["full", "short"], checkpoints: int) -> None:
    plan = make_plan(name)
    assert (len(plan.worlds), len(plan.seeds)) == (3, 5)
    for world in plan.worlds:
        trainings = list(plan.trainings(world))
        assert len(trainings) == 5 * len(plan.methods) and len({each.name for each in trainings}) == len(trainings)
        by_role = {each.role: each for each in trainings}
        assert by_role["opd-low-rate"].learning_rate == pytest.approx(by_role["opd"].learning_rate / 3, rel=0.01)
        assert by_role["opd"].save_steps == by_role["opd"].steps // checkpoints and by_role["exopd"].save_steps is None
        spec = make_spec(plan.sweep(world, Path("runs")))
        (norms,) = [sweep for sweep in spec.sweeps if sweep.name == "update_norm"]
        (windows,) = [sweep for sweep in spec.sweeps if sweep.name == "sliding_window"]
        assert set(norms.runs) == {plan.methods[role].label for role in ("opd", EARLY, *ALGORITHMS, *BOUNDARY)}
        assert set(windows.runs) == {"OPD", "RL (GRPO)"}
        assert by_role["rl-x4"].steps == 4 * by_role["rl"].steps == 4 * by_role["ppo"].steps
        early = by_role[EARLY]
        assert early.steps == by_role["opd"].steps // 10 and early.save_steps == max(1, early.steps // checkpoints)
        accelerated = [each for role, each in by_role.items() if role.startswith("effopd")]
        for each in accelerated:  # as many steps as the vanilla OPD that it is held against
            against = each.role.replace("effopd", "opd")
            assert each.steps == by_role[against if against in by_role else "opd"].steps
        assert by_role["rl-sparse-16"].plan.reward == "one_in_16" and by_role["rl"].plan.reward == "world"
        assert by_role["effopd-hard"].thirds["prompts"] >= 3 * 50
        alphaopd = by_role["alphaopd"]
        assert alphaopd.steps >= 5 * alphaopd.evaluate_every  # its fit wants five checkpoints with accuracies
        assert 0.9 < plan.target(world) < 1.0
    assert plan.target("style") == pytest.approx(0.5785 + 0.9 * (0.98475 - 0.5785), abs=1e-3)


def test_a_plan_of_unknown_worlds_or_no_seeds_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"worlds, of the full study: got 'mars', expected one of style"):
        make_plan(worlds=["mars"])
    with pytest.raises(ConfigurationError, match="of the quick study: got 'facts'"):
        make_plan("quick", worlds=["facts"])
    with pytest.raises(ConfigurationError, match="name: got 'slow', expected one of full, short, quick"):
        make_plan("slow")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="seeds: got 0"):
        make_plan(seeds=0)


@pytest.mark.slow
def test_every_method_trains(tmp_path: Path) -> None:
    """Two steps of each method of the full plan, for real; and a finished run is left as it is."""
    plan = make_plan(worlds=["style"], seeds=1)
    for training in plan.trainings("style"):
        steps = 10 if training.role == "alphaopd" else 2
        save = None if training.save_steps is None else 1
        small = replace(training, steps=steps, prompts_per_step=8, save_steps=save, evaluation_problems=16)
        small = replace(small, thirds={"prompts": 150, "samples": 2})
        directory = tmp_path / training.name
        try:
            training_module.do_training(small, directory)
        except EffOPDError as error:  # of ten steps, accuracies may all be equal
            assert training.role == "alphaopd" and "accuracies" in str(error)
            continue
        finished = (directory / "run.json").stat().st_mtime_ns
        assert len(list(directory.glob("checkpoint-*"))) == (2 if save else 1) + 4 * (training.role == "alphaopd")
        training_module.do_training(small, directory)
        assert (directory / "run.json").stat().st_mtime_ns == finished
        shutil.rmtree(directory)
